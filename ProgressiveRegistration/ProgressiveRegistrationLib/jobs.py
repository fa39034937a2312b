"""From files to files: register a pair, measure a transform, apply one. Command line and batch run these.

What can be wrong with inputs or output folder is found before the registration starts; results appear in the
output folder all at once, or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from . import formats
from .coverage import outside_notes, reference_note
from .errors import InputError, NoLungError, OutputError, memory_errors
from .files import keeping, refuse_inputs, staged_folder
from .geometry import Grid
from .images import read_image, read_volume, write_image
from .landmarks import read_landmarks, write_landmarks
from .lungs import find_lungs
from .options import IMAGE_CHOICES, PATH, Options, PairFiles
from .pairing import LandmarkPair, read_landmark_pair, read_side
from .progress import Progress, Stop, Work, check
from .quality import quality_figures
from .report.content import describe_image, evaluation_report, protocol, registration_report
from .report.page import draw, write_report
from .transforms import Transform, map_points, read_transform
from .warping import warp_image

if TYPE_CHECKING:  # it brings torch
    from .registration import Registration
    from .uncertainty import Uncertainty

MUCH_FOLDING = 0.1  # percent of the lung, from which on a note tells it
# Shares of the time, for the progress bar only.
WRITING = "Writing the warped images"
SHARES = {
    "reading": 5.0,
    "registering": 40.0,
    "registering_back": 40.0,
    "quality": 3.0,
    "uncertainty": 4.0,
    "writing": 7.0,
    "pictures": 5.0,
}
EVALUATION_SHARES = {"reading": 30.0, "lungs": 20.0, "quality": 40.0, "pictures": 10.0}


@dataclass(frozen=True)
class Job:
    """One registration, files to files. ``output`` is a folder; see ``register_files`` for what it gets.

    ``transform_name`` : the transform's file name without ending, for every format. ``command`` : for the
    report. ``final`` : where ``output`` and all in it will be moved afterwards, and what the report therefore
    names.
    """

    files: PairFiles
    options: Options
    output: Path
    transform_name: str | None = None
    command: str | None = None
    final: Path | None = None

    def named(self, path: Path | None) -> Path | None:
        """The path that the report names."""
        if self.final is None or path is None or self.output not in path.parents:
            return path
        return self.final / path.relative_to(self.output)

    def role(self, side: str) -> str:
        """What sentences call an image: "the fixed image" and its path."""
        return f"the {side} image {self.named(getattr(self.files, side))}"


@dataclass(frozen=True)
class Inputs:
    """What a job's files hold; ``moving`` is None where only the fixed image is known.
    Masks and labels as given, or None."""

    fixed: sitk.Image
    moving: sitk.Image | None
    fixed_mask: sitk.Image | None
    moving_mask: sitk.Image | None
    moving_labels: sitk.Image | None
    landmarks: LandmarkPair
    notes: tuple[str, ...] = ()  # what was done to the images on reading


def read_inputs(files: PairFiles) -> Inputs:
    """Read and check everything that belongs to a pair; raises InputError."""
    notes: list[str] = []
    fixed = read_side(files, "fixed", notes)
    moving = None if files.moving is None else read_side(files, "moving", notes)
    masks = (files.fixed_mask, files.moving_mask, files.moving_labels)
    one, other, labels = (None if path is None else read_volume(path, notes=notes) for path in masks)
    pair = read_landmark_pair(files, fixed, moving)
    return Inputs(fixed, moving, one, other, labels, pair, tuple(dict.fromkeys(notes)))


@memory_errors()
def register_files(
    job: Job, progress: Progress = None, cancelled: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Register and write; returns the report (the content of ``report.json``).

    The folder gets the transform(s), ``warped.*`` (the moving image on the fixed grid, in its own type),
    ``report.json``, and as asked for ``report.html``, ``warped_labels.*`` and, with fixed landmarks,
    ``warped_landmarks.mrk.json`` (T(x) in the moving frame, with the TRE of each).

    Raises
    ------
    ProgressiveRegistrationError : one sentence; then nothing was written.
    """
    job.options.check()
    back = job.options.inverse_consistency
    unused = {"registering_back": not back, "uncertainty": not job.options.uncertainty}
    work = Work({k: v for k, v in SHARES.items() if not unused.get(k)}, progress, cancelled)
    # The folder is left last: not before what is written beside is whole.
    with keeping(file_paths(job.files)), staged_folder(job.output) as folder, _beside() as beside:
        refuse_inputs(job.output, planned_names(job))  # now, not after the work
        loading = beside.submit(_model, job.options)  # brings torch, meanwhile
        with work.stage("reading", "Reading the images"):
            inputs = read_inputs(job.files)
        assert inputs.moving is not None  # who registers gives both
        result, backward = _registered(job, inputs, loading, work)
        images, warped = _write_images(job, inputs, result, folder, beside, work.cancelled)
        with work.stage("quality", "Measuring the transform"):
            figures = quality_figures(
                result.field,
                inputs.fixed,
                lung_mask=result.fixed_lungs.mask,
                backward=None if backward is None else backward.field,
                cancelled=work.cancelled,
                **inputs.landmarks.figures(),
            )
        doubt = None
        if job.options.uncertainty:
            doubt = _uncertainty(inputs, result, backward, job.options.device, work)
        if doubt is not None:
            figures["uncertainty"] = doubt.figures
        with work.stage("writing", "Warping and writing"):
            outputs = _write_results(job, inputs, result, figures, folder, work.part("writing"))
            outputs.update(images)
            if doubt is not None:
                outputs[formats.UNCERTAINTY] = formats.UNCERTAINTY + job.options.image_format
                write_image(doubt.image(), folder / outputs[formats.UNCERTAINTY])
        report = registration_report(result, figures)
        report["inputs"] = _described(job, inputs)
        report["notes"][:0] = inputs.notes
        report["notes"] += [
            *_backward_notes(result, backward),
            *_folding_notes(figures),
            *inputs.landmarks.notes,
            *(doubt.figures["notes"] if doubt is not None else []),
        ]
        report["command"] = job.command
        scene = (inputs.fixed, inputs.moving, result.field, result.fixed_lungs.mask)
        final = job.final or job.output
        drawn = draw_report(report, scene, work, doubt) if job.options.report else None
        with work.stage("writing", WRITING) as report_on:
            _wait(warped, lambda share: report_on("writing", share, WRITING), work.cancelled)
        finish_report(report, outputs, folder, final, drawn, work)
        return report


def _beside() -> ThreadPoolExecutor:
    """A thread beside this one: ITK's filters and much of torch's import let others run meanwhile."""
    return ThreadPoolExecutor(1, thread_name_prefix="beside")


def _model(options: Options) -> Any:
    """The model that the options name, loaded; "none" stays."""
    from .network.model import load_model

    return options.model if options.model == "none" else load_model(options.model, options.device)


def _uncertainty(
    inputs: Inputs, result: Registration, backward: Registration | None, device: str, work: Work
) -> Uncertainty:
    from .network.device import choose_device
    from .uncertainty import uncertainty

    assert inputs.moving is not None  # who registers has both
    with work.stage("uncertainty", "Mapping the uncertainty"):
        return uncertainty(
            inputs.fixed,
            inputs.moving,
            result.field,
            result.fixed_lungs.mask,
            backward=None if backward is None else backward.field,
            device=str(choose_device(device)),
            cancelled=work.cancelled,
        )


def file_paths(files: PairFiles) -> list[Path]:
    """All paths that a pair names."""
    given = (getattr(files, f.name) for f in fields(files) if f.metadata["kind"] == PATH)
    return [path for path in given if path is not None]


def planned_names(job: Job) -> list[str]:
    """The names that the results may get."""
    options, end = job.options, job.options.image_format
    names = [formats.transform_file(ending, job.transform_name) for ending in options.transform_formats]
    names += [formats.WARPED + end, formats.WARPED_LABELS + end, f"{formats.WARPED_LANDMARKS}.mrk.json"]
    return [*names, formats.REPORT_JSON, formats.REPORT_PAGE]


def _registered(
    job: Job, inputs: Inputs, model: Future[Any], work: Work
) -> tuple[Registration, Registration | None]:
    """The registration, and the one the other way where it was asked for; ``model`` may still be loading."""
    from .registration import register

    options = job.options

    def one_way(sides: tuple[str, str], options: Options, stage: str) -> Registration:
        def of(source: Any, what: str) -> tuple[Any, Any]:
            return getattr(source, sides[0] + what), getattr(source, sides[1] + what)

        fixed_mask, moving_mask = of(inputs, "_mask")
        named = [path and str(job.named(path)) for path in of(job.files, "_mask")]
        return register(
            *of(inputs, ""),
            fixed_mask=fixed_mask,
            moving_mask=moving_mask,
            names=(job.role(sides[0]), job.role(sides[1])),
            mask_names=(named[0], named[1]),
            **{**options.of_register(), "model": model},
            progress=work.part(stage),
            cancelled=work.cancelled,
        )

    result = one_way(("fixed", "moving"), options, "registering")
    work.add({stage: s for stage, s in result.seconds.items() if stage != "total"})
    if not options.inverse_consistency:
        return result, None
    with work.stage("registering_back", "Registering the other way"):
        return result, one_way(("moving", "fixed"), options.the_other_way(), "registering_back")


def _write_images(
    job: Job,
    inputs: Inputs,
    result: Registration,
    folder: Path,
    beside: ThreadPoolExecutor,
    cancelled: Stop,
) -> tuple[dict[str, str], list[_Written]]:
    """Begin to warp and write; the images' names in ``folder`` by kind, and what to wait for."""
    names, begun = {}, []

    def write(written: _Written, image: sitk.Image, label: bool, path: Path) -> None:
        def report(share: float) -> None:
            check(cancelled)
            written.share = share

        write_image(result.field.warp_image(image, inputs.fixed, label=label, report=report), path)

    for kind, image, label in (
        (formats.WARPED, inputs.moving, False),
        (formats.WARPED_LABELS, inputs.moving_labels, True),
    ):
        if image is not None:
            names[kind] = kind + job.options.image_format
            begun.append(written := _Written())
            written.end = beside.submit(write, written, image, label, folder / names[kind])
    return names, begun


class _Written:
    """An image that is warped and written beside: the share of it that is warped, and its end."""

    share: float = 0.0
    end: Future[None]


def _wait(begun: list[_Written], report: Callable[[float], None], cancelled: Stop) -> None:
    """Until all are written; shows how far they are, and hears a stop."""
    while begun:
        left = wait([written.end for written in begun], timeout=0.2).not_done
        check(cancelled)
        report(sum(written.share for written in begun) / len(begun))
        if not left:
            break
    for written in begun:
        written.end.result()


def _write_results(
    job: Job,
    inputs: Inputs,
    result: Registration,
    figures: dict[str, Any],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write transforms and warped landmarks; returns their names in ``folder`` by kind."""
    options, field = job.options, result.field
    outputs: dict[str, Any] = {}
    endings = list(dict.fromkeys(options.transform_formats))
    names = [formats.transform_file(ending, job.transform_name) for ending in endings]
    _check_room(folder, job, field.grid)
    tell = progress or (lambda *told: None)
    for done, (name, ending) in enumerate(zip(names, endings)):
        tell("writing", done / len(names), f"Writing {name}")
        # Field files know nothing outside their grid: let them reach over the whole fixed image.
        reach = ending in formats.FIELD_ENDINGS
        (field.covering(Grid.from_image(inputs.fixed)) if reach else field).write(folder / name)
    outputs["transform"] = names[0] if len(names) == 1 else names
    fixed = inputs.landmarks.fixed
    if fixed is not None:
        outputs[formats.WARPED_LANDMARKS] = name = f"{formats.WARPED_LANDMARKS}.mrk.json"
        errors = [row["after_mm"] for row in figures.get("landmarks", [])]
        write_landmarks(
            fixed.at(map_points(field, fixed.points)),
            folder / name,
            measurements={"TRE": errors} if errors else None,
        )
    return outputs


def evaluate_files(
    transform: Path,
    files: PairFiles,
    *,
    inverse: Path | None = None,
    output: Path | None = None,
    html: bool = True,
    command: str | None = None,
    progress: Progress = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """The same figures for a transform from any program; with ``output`` also the report's files.

    ``inverse``: a transform moving -> fixed, for inverse consistency. The page needs the moving image
    (``files.moving`` may be None).
    """
    work = Work(EVALUATION_SHARES, progress, cancelled)
    kept = keeping([transform, inverse, *file_paths(files)])
    with kept, nullcontext() if output is None else staged_folder(output) as folder:
        with work.stage("reading", "Reading the transform and the images"):
            read_notes: list[str] = []
            mapping = read_transform(transform, read_notes)
            back = None if inverse is None else read_transform(inverse, read_notes)
            inputs = read_inputs(files)
        notes = [*read_notes, *inputs.notes, *inputs.landmarks.notes]
        with work.stage("lungs", "Finding the fixed lungs"):
            given = files.fixed_mask is not None
            mask, note = lungs_or_note(
                inputs.fixed, inputs.fixed_mask, Path(files.fixed).name, needed=given or back is not None
            )
            notes += note
        with work.stage("quality", "Measuring the transform"):
            figures = quality_figures(
                mapping,
                inputs.fixed,
                lung_mask=mask,
                backward=back,
                cancelled=work.cancelled,
                **inputs.landmarks.figures(),
            )
        pair = inputs.landmarks
        notes += outside_notes(mapping, None if pair.fixed is None else pair.fixed.points, mask)
        notes += [*_other_way_notes(mapping, pair, figures), *_folding_notes(figures)]
        if folder is not None and html and inputs.moving is None:
            notes.append("There is no report.html: its pictures need the moving image (--moving).")
        report = evaluation_report(figures, str(transform))
        report["inputs"] = _described(Job(files, Options(), Path()), inputs)
        report["notes"] = notes
        report["command"] = command
        drawn = None
        if folder is not None and html and inputs.moving is not None:
            drawn = draw_report(report, (inputs.fixed, inputs.moving, mapping, mask), work)
        finish_report(report, {}, folder, output, drawn, work)
        return report


def lungs_or_note(
    image: sitk.Image, mask: sitk.Image | None, name: str, *, needed: bool = False
) -> tuple[sitk.Image | None, list[str]]:
    """The mask of an image's lungs for measuring; where there is none,
    None and a sentence (NoLungError if ``needed``)."""
    try:
        return find_lungs(image, mask=mask, name=name).mask, []
    except NoLungError as error:
        if needed:
            raise
        return None, [f"{error} Figures inside the lung are left out."]


def apply_image(
    transform: Path,
    moving: Path,
    reference: Path,
    output: Path,
    *,
    label: bool = False,
    moving_series: str | None = None,
    reference_series: str | None = None,
    moving_frame: int | None = None,
    reference_frame: int | None = None,
) -> list[str]:
    """Warp an image (or a label map) onto a reference image's grid and write it; returns notes."""
    notes: list[str] = []
    mapping = read_transform(transform, notes)
    read = read_volume if label else read_image
    image = read(moving, moving_series, option="--moving-series", frame=moving_frame, notes=notes)
    reference_image = read_volume(
        reference, reference_series, option="--reference-series", frame=reference_frame, notes=notes
    )
    grid = Grid.from_image(reference_image)
    if isinstance(mapping, sitk.Transform):
        warped = warp_image(image, grid, mapping, label=label)
    else:
        warped = mapping.warp_image(image, grid, label=label)
    with keeping([transform, moving, reference]):
        write_image(warped, output)
    return notes + reference_note(mapping, grid)


def apply_points(
    transform: Path,
    landmarks: Path,
    output: Path,
    *,
    reference: Path | None = None,
    moving: Path | None = None,
    columns: str | None = None,
    moving_series: str | None = None,
    reference_series: str | None = None,
    moving_frame: int | None = None,
    reference_frame: int | None = None,
) -> list[str]:
    """Carry fixed landmarks to the moving image, T(x), and write them; returns notes.

    DIR-Lab's ``.txt`` counts voxels: of ``reference``, the fixed image, in ``landmarks``, and of ``moving``
    in ``output``.
    """
    for path, image, name in ((landmarks, reference, "reference"), (output, moving, "moving")):
        if image is None and Path(path).suffix.lower() == ".txt":
            raise InputError(f"{path} counts voxels (DIR-Lab); give the image that they belong to, --{name}.")
    notes: list[str] = []
    mapping = read_transform(transform, notes)
    fixed_image = moving_image = None
    if reference is not None:
        fixed_image = read_volume(
            reference, reference_series, option="--reference-series", frame=reference_frame, notes=notes
        )
    if moving is not None:
        moving_image = read_volume(
            moving, moving_series, option="--moving-series", frame=moving_frame, notes=notes
        )
    points = read_landmarks(landmarks, fixed_image, columns=columns)
    with keeping([transform, landmarks, reference, moving]):
        write_landmarks(points.at(map_points(mapping, points.points)), output, moving_image)
    return notes + outside_notes(mapping, points.points, None)


def draw_report(
    report: dict[str, Any],
    scene: tuple[sitk.Image, sitk.Image, Transform, sitk.Image | None],
    work: Work,
    doubt: Uncertainty | None = None,
) -> dict[str, Any]:
    """The report's pictures. ``scene``: fixed, moving, the transform, the lungs' mask."""
    fixed, moving, mapping, mask = scene
    with work.stage("pictures", "Drawing the report"):
        return draw(mapping, fixed, moving, lung_mask=mask, landmarks=report["landmarks"], doubt=doubt)


def finish_report(
    report: dict[str, Any],
    outputs: dict[str, Any],
    folder: Path | None,
    final: Path | None,
    drawn: dict[str, Any] | None,
    work: Work,
    seconds: Mapping[str, float] | None = None,
) -> None:
    """Complete the report and write it into ``folder`` (None: not at all), whose files will be in ``final``.

    ``seconds``: what the report is about took them; else the time of ``work``.
    """
    report["seconds"] = dict(seconds or work.total())
    report["protocol"] = protocol(report)
    if folder is not None and final is not None:
        where = Path(final).absolute()
        if drawn is not None:
            outputs["html"] = formats.REPORT_PAGE
        outputs["report"] = formats.REPORT_JSON

        def place(name: str | list[str]) -> str | list[str]:
            return [str(where / n) for n in name] if isinstance(name, list) else str(where / name)

        report["outputs"] = {key: place(name) for key, name in outputs.items()}
        write_report(report, folder, drawn)
    work.done()


def _backward_notes(forward: Registration, backward: Registration | None) -> list[str]:
    """What the way back has to say that the way forward has not."""
    notes = backward.notes if backward is not None else []
    return [
        f"Registering back, for inverse consistency: {note}" for note in notes if note not in forward.notes
    ]


def _other_way_notes(mapping: Transform, pair: LandmarkPair, figures: dict[str, Any]) -> list[str]:
    """Where the transform makes the landmarks' error larger: what it leaves when read moving -> fixed."""
    errors = figures.get("tre_mm")
    if (
        not errors
        or pair.moving is None
        or pair.fixed is None
        or errors["after"]["mean"] <= errors["before"]["mean"]
    ):
        return []
    other = np.linalg.norm(map_points(mapping, pair.moving.points) - pair.fixed.points, axis=1).mean()
    if other >= errors["before"]["mean"]:
        return []
    return [
        f"The transform makes the landmarks' error larger ({errors['before']['mean']:.2f} to "
        f"{errors['after']['mean']:.2f} mm); read the other way round, moving to fixed, it leaves "
        f"{other:.2f} mm. Is it the inverse? Exchange fixed and moving, or give its inverse."
    ]


def _folding_notes(figures: dict[str, Any]) -> list[str]:
    percent = figures["folding"]["lung_percent"]
    if percent is None or percent <= MUCH_FOLDING:
        return []
    return [
        f"The transform folds in {percent:.2g} % of the lung: there it is no possible motion, so look at the "
        "result before you use it."
    ]


def _check_room(folder: Path, job: Job, grid: Grid) -> None:
    """OutputError when the disk is surely too full; HDF5 says it in fifty lines and may crash."""
    needed = 24 * int(np.prod(grid.size)) if ".h5" in job.options.transform_formats else 0
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{job.final or job.output} cannot hold the results: they need more than {needed / 1e6:.0f} "
            f"MB, and {free / 1e6:.0f} MB are free."
        )


# Of PairFiles: which part of a file was read; what reads the files again needs them.
READING_CHOICES = ("fixed_columns", "moving_columns", *IMAGE_CHOICES)


def _described(job: Job, inputs: Inputs) -> dict[str, Any]:
    """The report's ``inputs``."""
    files = job.files
    out: dict[str, Any] = {}
    for side in ("fixed", "moving"):
        image = getattr(inputs, side)
        if image is not None:
            out[side] = describe_image(image, job.named(getattr(files, side)))
    for name in ("fixed_landmarks", "moving_landmarks", "fixed_mask", "moving_mask", "moving_labels"):
        path = getattr(files, name)
        if path is not None:
            out[name] = str(job.named(path))
    for name in READING_CHOICES:
        if getattr(files, name) is not None:
            out[name] = getattr(files, name)
    if files.exclude_landmarks:
        out["excluded_landmarks"] = list(files.exclude_landmarks)
    if inputs.landmarks.how:
        out["landmark_pairing"] = inputs.landmarks.how
    return out
