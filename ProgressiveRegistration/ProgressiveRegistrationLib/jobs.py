"""From files to files: register a pair, measure a transform, apply one. Command line and batch run these.

What can be wrong with inputs or output folder is found before the registration starts; results appear in the
output folder all at once, or not at all.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from .errors import Cancelled, InputError, NoLungError, OutputError, memory_errors
from .field import IMAGE_FORMATS as FIELD_FORMATS
from .field import DisplacementField
from .files import staged_folder
from .geometry import Box, Grid
from .images import is_dicom, read_image, read_volume, warp_image, write_image
from .landmarks import Landmarks, match_landmarks, outside_notes, read_landmarks, write_landmarks
from .lungs import find_lungs
from .quality import Transform, map_points, quality_figures
from .report.content import (
    describe_image,
    draw,
    evaluation_report,
    protocol,
    registration_report,
    write_report,
)

if TYPE_CHECKING:  # it brings torch
    from .registration import Registration

Progress = Callable[[str, float, str], None]
PRESETS = {"fast": None, "balanced": "balanced", "accurate": "accurate"}
IMAGE_FORMATS = (".nrrd", ".nii.gz", ".mha")
TRANSFORM_NAMES = {
    ".h5": "transform.h5",
    ".tfm": "transform.tfm",
    ".nrrd": "displacement.nrrd",
    ".nii.gz": "displacement.nii.gz",
    ".mha": "displacement.mha",
}
MUCH_FOLDING = 0.1  # percent of the lung, from which on a note tells it


@dataclass(frozen=True)
class LandmarkFiles:
    """Where a pair's landmarks are. ``*_columns`` choose a CSV's point sets; ``exclude``: labels to skip."""

    fixed: Path | None = None
    moving: Path | None = None
    fixed_columns: str | None = None
    moving_columns: str | None = None
    exclude: tuple[str, ...] = ()

    def read(self, fixed: sitk.Image, moving: sitk.Image | None) -> Pair:
        """The landmarks in LPS mm, paired and checked against the images (``moving`` may be unknown)."""
        if self.moving is not None and self.fixed is None:
            raise InputError(f"{self.moving} was given without the fixed image's landmarks; give both files.")
        if self.fixed is None:
            return Pair()
        left = read_landmarks(self.fixed, fixed, columns=self.fixed_columns)
        notes, how, right = [], None, None
        if self.moving is not None:
            right = read_landmarks(self.moving, moving, columns=self.moving_columns)
            if self.exclude:
                left, right = left.without(self.exclude), right.without(self.exclude)
            for landmarks in (left, right):
                if landmarks.undefined:
                    count = len(landmarks.undefined)
                    notes.append(f"{landmarks.source}: {count} landmarks have no position and are left out.")
            left, right, how = match_landmarks(left, right)
            if moving is not None:
                notes += outside_notes(right, moving, "moving image")
        elif self.exclude:
            left = left.without(self.exclude)
        return Pair(left, right, how, notes + outside_notes(left, fixed, "fixed image"))


@dataclass(frozen=True)
class Pair:
    """Paired landmarks; ``moving`` is None where only the fixed ones were given."""

    fixed: Landmarks | None = None
    moving: Landmarks | None = None
    how: str | None = None
    notes: tuple[str, ...] | list[str] = ()

    def figures(self) -> dict:
        """What ``quality_figures`` wants."""
        if self.fixed is None or self.moving is None:
            return {}
        return {
            "fixed_points": self.fixed.points,
            "moving_points": self.moving.points,
            "labels": self.fixed.labels,
        }


@dataclass(frozen=True)
class Job:
    """One registration, files to files. ``output`` is a folder; see ``register_files`` for what it gets.

    ``final``: where ``output`` and all in it will be moved afterwards, and what the report therefore names.
    """

    fixed: Path
    moving: Path
    output: Path
    preset: str = "balanced"
    model: str | None = None
    device: str = "auto"
    lung_boxes: str | tuple[Box, Box] = "own"
    fixed_series: str | None = None
    moving_series: str | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    landmarks: LandmarkFiles = LandmarkFiles()
    moving_labels: Path | None = None
    transform_formats: tuple[str, ...] = (".h5",)
    transform_name: str | None = None  # file name without ending, for every format
    image_format: str = ".nrrd"
    inverse_consistency: bool = False
    report: bool = True
    command: str | None = None
    final: Path | None = None

    def named(self, path: Path | None) -> Path | None:
        """The path that the report names."""
        if self.final is None or path is None or self.output not in path.parents:
            return path
        return self.final / path.relative_to(self.output)

    def transform_file(self, ending: str) -> str:
        """Name of the transform's file of that format."""
        return TRANSFORM_NAMES[ending] if self.transform_name is None else self.transform_name + ending

    def check(self) -> None:
        """InputError for an option that is not one."""
        if self.preset not in PRESETS:
            raise InputError(f"There is no preset {self.preset}; choose {', '.join(PRESETS)}.")
        for ending in self.transform_formats:
            if ending not in TRANSFORM_NAMES:
                known = ", ".join(TRANSFORM_NAMES)
                raise InputError(f"Transforms cannot be written as {ending}; choose {known}.")
        if self.image_format not in IMAGE_FORMATS:
            raise InputError(
                f"Images cannot be written as {self.image_format}; choose {', '.join(IMAGE_FORMATS)}."
            )


class Clock:
    """Seconds by stage, in the order in which the stages began."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str):
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

    def total(self) -> dict[str, float]:
        """Stages and ``total``, rounded to ms."""
        stages = {name: round(s, 3) for name, s in self.seconds.items()}
        return {**stages, "total": round(time.perf_counter() - self.start, 3)}


@memory_errors()
def register_files(
    job: Job, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None
) -> dict:
    """Register and write; returns the report (the content of ``report.json``).

    The folder gets the transform(s), ``warped.*`` (the moving image on the fixed grid, in its own type),
    ``report.json``, and as asked for ``report.html``, ``warped_labels.*`` and, with fixed landmarks,
    ``warped_landmarks.mrk.json`` (T(x) in the moving frame, with the TRE of each).

    Raises
    ------
    ProgressiveRegistrationError : one sentence; then nothing was written.
    """
    job.check()
    clock = Clock()
    with clock.stage("starting"):
        from .network.model import load_model  # brings torch
        from .registration import register
    tell = _Teller(progress, cancelled)
    with staged_folder(job.output) as folder:
        with clock.stage("reading"):
            tell("reading", 0.0, "Reading the images")
            fixed, moving = (
                read_image(path, series=series, option=f"--{side}-series (in a batch: {side}_series)")
                for side, path, series in (
                    ("fixed", job.fixed, job.fixed_series),
                    ("moving", job.moving, job.moving_series),
                )
            )
            masks = [path and read_volume(path) for path in (job.fixed_mask, job.moving_mask)]
            labels = job.moving_labels and read_volume(job.moving_labels)
            pair = job.landmarks.read(fixed, moving)
        with clock.stage("model"):
            network = job.model if job.model == "none" else load_model(job.model, job.device)
        options = {"model": network, "device": job.device, "lung_boxes": job.lung_boxes}
        options.update(refinement=PRESETS[job.preset], cancelled=tell.cancelled)
        share = 0.4 if job.inverse_consistency else 0.8
        try:
            result = register(
                fixed,
                moving,
                fixed_mask=masks[0],
                moving_mask=masks[1],
                progress=tell.part(0.05, 0.05 + share),
                **options,
            )
        except InputError as error:
            raise _naming_files(error, job) from error
        for stage, seconds in result.seconds.items():
            if stage != "total":
                clock.seconds[stage] = clock.seconds.get(stage, 0.0) + seconds
        backward = None
        if job.inverse_consistency:
            with clock.stage("registering_back"):
                if not isinstance(job.lung_boxes, str):
                    options["lung_boxes"] = tuple(job.lung_boxes)[::-1]
                backward = register(
                    moving,
                    fixed,
                    fixed_mask=masks[1],
                    moving_mask=masks[0],
                    progress=tell.part(0.05 + share, 0.05 + 2 * share),
                    **options,
                )
        with clock.stage("quality"):
            tell("quality", 0.87, "Measuring the transform")
            figures = quality_figures(
                result.field,
                fixed,
                lung_mask=result.fixed_lungs.mask,
                backward=backward and backward.field,
                cancelled=tell.cancelled,
                **pair.figures(),
            )
        outputs: dict[str, Any] = {}
        with clock.stage("writing"):
            tell("writing", 0.9, "Warping and writing")
            endings = list(dict.fromkeys(job.transform_formats))
            names = [job.transform_file(ending) for ending in endings]
            _check_room(folder, job, result.field.grid)
            for name, ending in zip(names, endings):
                # Field files know nothing outside their grid: let them reach over the whole fixed image.
                reach = ending in FIELD_FORMATS
                whole = result.field.covering(Grid.from_image(fixed)) if reach else result.field
                whole.write(folder / name)
            outputs["transform"] = names[0] if len(names) == 1 else names
            outputs["warped"] = f"warped{job.image_format}"
            write_image(result.field.warp_image(moving, fixed), folder / outputs["warped"])
            if labels is not None:
                outputs["warped_labels"] = f"warped_labels{job.image_format}"
                warped = result.field.warp_image(labels, fixed, label=True)
                write_image(warped, folder / outputs["warped_labels"])
            if pair.fixed is not None:
                outputs["warped_landmarks"] = "warped_landmarks.mrk.json"
                errors = [row["after_mm"] for row in figures.get("landmarks", [])]
                write_landmarks(
                    pair.fixed.at(map_points(result.field, pair.fixed.points)),
                    folder / outputs["warped_landmarks"],
                    measurements={"TRE": errors} if errors else None,
                )
        report = registration_report(result, figures)
        files = replace(
            job.landmarks, fixed=job.named(job.landmarks.fixed), moving=job.named(job.landmarks.moving)
        )
        report["inputs"] = _inputs(fixed, job.named(job.fixed), moving, job.named(job.moving), pair, files)
        for name, path in (
            ("fixed_mask", job.fixed_mask),
            ("moving_mask", job.moving_mask),
            ("moving_labels", job.moving_labels),
        ):
            if path is not None:
                report["inputs"][name] = str(job.named(path))
        report["notes"] += [*_backward_notes(result, backward), *_folding_notes(figures), *pair.notes]
        report["command"] = job.command
        scene = (fixed, moving, result.field, result.fixed_lungs.mask)
        _finish(report, outputs, folder, job.final or job.output, scene, clock, tell, html=job.report)
        return report


def evaluate_files(
    transform: Path,
    fixed: Path,
    moving: Path | None = None,
    *,
    landmarks: LandmarkFiles = LandmarkFiles(),
    fixed_series: str | None = None,
    moving_series: str | None = None,
    fixed_mask: Path | None = None,
    inverse: Path | None = None,
    output: Path | None = None,
    html: bool = True,
    command: str | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict:
    """The same figures for a transform from any program; with ``output`` also the report's files.

    ``inverse``: a transform moving -> fixed, for inverse consistency. The page needs the moving image.
    """
    clock = Clock()
    tell = _Teller(progress, cancelled)
    with nullcontext() if output is None else staged_folder(output) as folder:
        with clock.stage("reading"):
            tell("reading", 0.0, "Reading the transform and the images")
            mapping = read_transform(transform)
            back = None if inverse is None else read_transform(inverse)
            fixed_image = read_image(fixed, series=fixed_series, option="--fixed-series")
            moving_image = None
            if moving is not None:
                moving_image = read_image(moving, series=moving_series, option="--moving-series")
            pair = landmarks.read(fixed_image, moving_image)
            mask_image = fixed_mask and read_volume(fixed_mask)
        notes = list(pair.notes)
        with clock.stage("lungs"):
            tell("lungs", 0.3, "Finding the fixed lungs")
            mask = None
            try:
                mask = find_lungs(fixed_image, mask=mask_image, name=Path(fixed).name).mask
            except NoLungError as error:
                if fixed_mask is not None or back is not None:
                    raise
                notes.append(f"{error} Figures inside the lung are left out.")
        with clock.stage("quality"):
            tell("quality", 0.5, "Measuring the transform")
            figures = quality_figures(
                mapping,
                fixed_image,
                lung_mask=mask,
                backward=back,
                cancelled=tell.cancelled,
                **pair.figures(),
            )
        notes += _folding_notes(figures)
        if folder is not None and html and moving is None:
            notes.append("There is no report.html: its pictures need the moving image (--moving).")
        report = evaluation_report(figures, str(transform))
        report["inputs"] = _inputs(fixed_image, fixed, moving_image, moving, pair, landmarks)
        report["notes"] = notes
        report["command"] = command
        if folder is None:
            report["seconds"] = clock.total()
            report["protocol"] = protocol(report)
            return report
        scene = (fixed_image, moving_image, mapping, mask)
        _finish(report, {}, folder, output, scene, clock, tell, html=html and moving is not None)
        return report


def apply_image(
    transform: Path,
    moving: Path,
    reference: Path,
    output: Path,
    *,
    label: bool = False,
    moving_series: str | None = None,
    reference_series: str | None = None,
) -> None:
    """Warp an image (or a label map) onto a reference image's grid and write it."""
    mapping = read_transform(transform)
    read = read_volume if label else read_image
    image = read(moving, series=moving_series, option="--moving-series")
    grid = Grid.from_image(read_volume(reference, series=reference_series, option="--reference-series"))
    if isinstance(mapping, sitk.Transform):
        warped = warp_image(image, grid, mapping, label=label)
    else:
        warped = mapping.warp_image(image, grid, label=label)
    write_image(warped, output)


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
) -> None:
    """Carry fixed landmarks to the moving image, T(x), and write them.

    DIR-Lab's ``.txt`` counts voxels: of ``reference``, the fixed image, in ``landmarks``, and of ``moving``
    in ``output``.
    """
    for path, image, name in ((landmarks, reference, "reference"), (output, moving, "moving")):
        if image is None and Path(path).suffix.lower() == ".txt":
            raise InputError(f"{path} counts voxels (DIR-Lab); give the image that they belong to, --{name}.")
    mapping = read_transform(transform)
    fixed_image = moving_image = None
    if reference is not None:
        fixed_image = read_volume(reference, series=reference_series, option="--reference-series")
    if moving is not None:
        moving_image = read_volume(moving, series=moving_series, option="--moving-series")
    points = read_landmarks(landmarks, fixed_image, columns=columns)
    write_landmarks(points.at(map_points(mapping, points.points)), output, moving_image)


def read_transform(path: str | Path) -> Transform:
    """A displacement field, or any transform that ITK reads (affine, B-spline, composite), or a
    DICOM Deformable Spatial Registration.

    Raises
    ------
    InputError : no such file, not a 3D ITK transform or displacement field.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no transform file {path}.")
    if path.name.lower().endswith(FIELD_FORMATS):
        return DisplacementField.read(path)
    if is_dicom(path):
        from .dicom_registration import read_registration

        return read_registration(path)
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path.name} cannot be read as an ITK transform (.h5, .tfm, .txt, .mat) or displacement field "
            "(.nrrd, .nii.gz, .mha)."
        ) from error
    if transform.GetDimension() != 3:
        raise InputError(f"{path.name} is a {transform.GetDimension()}D transform; a 3D one is needed.")
    if transform.GetTransformEnum() in (sitk.sitkDisplacementField, sitk.sitkComposite):
        try:
            return DisplacementField.read(path)  # ours, or a plain field: it keeps its lattice
        except InputError:
            pass
    return transform


def parse_lung_boxes(text: str) -> str | tuple[Box, Box]:
    """``own``, ``shared``, or x0,y0,z0,x1,y1,z1 (LPS mm) for both images, or twelve: fixed, moving."""
    if text in ("own", "shared"):
        return text
    try:
        numbers = [float(v) for v in text.replace(";", ",").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (6, 12):
        raise InputError(
            f"Lung boxes {text} cannot be used; give own, shared, or x0,y0,z0,x1,y1,z1 in LPS mm "
            "(twelve numbers: fixed box, moving box)."
        )
    corners = [tuple(numbers[i : i + 3]) for i in range(0, len(numbers), 3)]
    boxes = [Box(*corners[i : i + 2]) for i in range(0, len(corners), 2)]
    return boxes[0], boxes[-1]


class _Teller:
    """Progress of the whole job, and a place to stop."""

    def __init__(self, progress: Progress | None, cancelled: Callable[[], bool] | None) -> None:
        self.progress = progress
        self.cancelled = cancelled

    def __call__(self, stage: str, fraction: float, text: str) -> None:
        if self.cancelled is not None and self.cancelled():
            raise Cancelled()
        if self.progress is not None:
            self.progress(stage, fraction, text)

    def part(self, first: float, last: float) -> Progress:
        """Progress for a step that counts 0..1 by itself."""

        def tell(stage: str, fraction: float, text: str) -> None:
            if self.progress is not None:
                self.progress(stage, first + (last - first) * fraction, text)

        return tell


def _finish(
    report: dict, outputs: dict, folder: Path, final: Path, scene, clock, tell, *, html: bool
) -> None:
    """Complete the report and write it into ``folder``, whose files will be in ``final``."""
    fixed, moving, mapping, mask = scene
    drawn = None
    if html:
        with clock.stage("pictures"):
            tell("pictures", 0.95, "Drawing the report")
            drawn = draw(mapping, fixed, moving, lung_mask=mask, landmarks=report["landmarks"])
        outputs["html"] = "report.html"
    outputs["report"] = "report.json"
    final = Path(final).absolute()

    def place(name):
        return [str(final / n) for n in name] if isinstance(name, list) else str(final / name)

    report["outputs"] = {key: place(name) for key, name in outputs.items()}
    report["seconds"] = clock.total()
    report["protocol"] = protocol(report)
    write_report(report, folder, drawn)
    tell("done", 1.0, "Done")


def _naming_files(error: InputError, job: Job) -> InputError:
    """The same error, naming the files that ``register`` does not know."""
    text = str(error)
    for side, image, mask in (
        ("fixed", job.fixed, job.fixed_mask),
        ("moving", job.moving, job.moving_mask),
    ):
        text = text.replace(f"The lung mask of the {side} image", f"The lung mask {mask}")
        text = text.replace(f"the {side} image", f"the {side} image {image}")
    return type(error)(text)


def _backward_notes(forward: Registration, backward: Registration | None) -> list[str]:
    """What the way back has to say that the way forward has not; there, the images had each other's names."""
    notes = []
    for note in backward.notes if backward is not None else []:
        parts = [part.replace("fixed image", "moving image") for part in note.split("moving image")]
        note = "fixed image".join(parts)
        if note not in forward.notes:
            notes.append(f"Registering back, for inverse consistency: {note}")
    return notes


def _folding_notes(figures: dict) -> list[str]:
    percent = figures["folding"]["lung_percent"]
    if percent is None or percent <= MUCH_FOLDING:
        return []
    return [
        f"The transform folds in {percent:.2g} % of the lung: there it is no possible motion, so look at the "
        "result before you use it."
    ]


def _check_room(folder: Path, job: Job, grid: Grid) -> None:
    """OutputError when the disk is surely too full; HDF5 says it in fifty lines and may crash."""
    needed = 24 * int(np.prod(grid.size)) if ".h5" in job.transform_formats else 0
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{job.final or job.output} cannot hold the results: they need more than {needed / 1e6:.0f} MB, and "
            f"{free / 1e6:.0f} MB are free."
        )


def _inputs(fixed, fixed_path, moving, moving_path, pair: Pair, files: LandmarkFiles) -> dict:
    out: dict[str, Any] = {"fixed": describe_image(fixed, fixed_path)}
    if moving is not None:
        out["moving"] = describe_image(moving, moving_path)
    for name, path in (("fixed_landmarks", files.fixed), ("moving_landmarks", files.moving)):
        if path is not None:
            out[name] = str(path)
    if files.exclude:
        out["excluded_landmarks"] = list(files.exclude)
    if pair.how:
        out["landmark_pairing"] = pair.how
    return out
