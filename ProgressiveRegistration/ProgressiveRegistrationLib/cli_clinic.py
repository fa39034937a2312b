"""Commands for the clinic: ``ventilation``, ``dose``, ``contours``, ``convert``, ``qa``. ``cli`` adds them
to its own.
"""

# Typer reads annotations at run time, also on Python 3.9.
# ruff: noqa: UP006, UP035, UP045
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List, Optional

import typer

from .cli_options import takes
from .errors import InputError
from .options import IMAGE_CHOICES, PairFiles


def add_commands(app: typer.Typer, cli: Any, epilog: str) -> None:
    """Add this file's commands to ``app``; ``cli`` is the module with its helpers."""

    @app.command(epilog=epilog)
    @cli.guarded
    @takes(
        {"files": PairFiles},
        options=("fixed", "moving"),
        only=("fixed", "moving", "fixed_mask", *IMAGE_CHOICES),
        texts={
            "fixed": "CT at exhale, the transform's fixed image.",
            "moving": "CT at inhale, its moving image.",
        },
    )
    def ventilation(
        files: PairFiles,
        transform: Path = cli.TRANSFORM,
        output: Path = typer.Option(..., "--output", "-o", help="Folder for the maps.", show_default=False),
        smoothing: Optional[float] = typer.Option(
            None, help="Smoothing of the HU for the air-based map, sd in mm. [8, at least two voxels]"
        ),
        jacobian_smoothing: Optional[float] = typer.Option(
            None, help="Smoothing of the Jacobian determinant, sd in mm. [8, at least two voxels]"
        ),
        mass_correction: bool = typer.Option(
            True, "--mass-correction/--no-mass-correction", help="Of the air-based map."
        ),
        as_json: bool = cli.JSON,
    ) -> None:
        """Specific ventilation from exhale to inhale: by volume change, and by change of air."""
        from .coverage import outside_notes
        from .files import staged_folder, write_text
        from .images import read_volume, write_image
        from .lungs import find_lungs
        from .pairing import read_side
        from .report.content import jsonable, to_json
        from .transforms import read_transform
        from .ventilation import ventilation as measure

        notes: List[str] = []
        mapping = read_transform(transform, notes)
        exhale, inhale = (read_side(files, side, notes) for side in ("fixed", "moving"))
        mask = None if files.fixed_mask is None else read_volume(files.fixed_mask)
        lungs = find_lungs(exhale, mask=mask, name=str(files.fixed))
        found = measure(
            exhale,
            inhale,
            mapping,
            lungs.mask,
            smoothing_mm=smoothing,
            jacobian_smoothing_mm=jacobian_smoothing,
            mass_correction=mass_correction,
        )
        found.figures["notes"][:0] = [*notes, *outside_notes(mapping, None, lungs.mask)]
        with staged_folder(output) as folder:
            for which in ("jacobian", "hu"):
                write_image(found.image(which, float("nan")), folder / f"ventilation_{which}.nrrd")
            write_image(found.grid.image(found.zones), folder / "zones.nrrd")
            write_text(folder / "ventilation.json", to_json(jsonable(found.figures)))
        if as_json:
            cli.print_json(to_json(jsonable(found.figures)))
            return
        cli._show_notes(found.figures["notes"])
        for name, zone in (("lungs", found.figures["lungs"]), *found.figures["zones"].items()):
            parts = []
            for which, title in (("jacobian", "volume change"), ("hu", "air")):
                if zone[which]:
                    cv = zone[which]["cv"]
                    parts.append(
                        f"{title} {zone[which]['mean']:.3f}" + (f" (CV {cv:.2f})" if cv is not None else "")
                    )
            cli._out.print(f"{name}: {zone['ml']:.0f} ml, {', '.join(parts)}")
        cli._out.print(cli._plain(output))

    @app.command(epilog=epilog)
    @cli.guarded
    @takes(
        {"images": PairFiles},
        options=("fixed", "moving"),
        optional=("fixed", "moving"),
        only=("fixed", "moving"),
        texts={
            "fixed": "With a transform: its fixed CT, on whose grid the dose is written.",
            "moving": "With a transform, for mass: its moving CT.",
        },
    )
    def dose(
        images: PairFiles,
        result: Path = typer.Argument(
            ...,
            metavar="RESULT",
            help="Folder that `sequence` wrote; or a transform, whose images are then to be given.",
            show_default=False,
        ),
        doses: List[Path] = typer.Argument(
            ...,
            metavar="DOSES...",
            help="A dose for each phase in their order (image in Gy or RTDOSE), or one for all: the "
            "same place in the room. With a transform: one dose on the moving image.",
            show_default=False,
        ),
        output: Path = typer.Option(
            ..., "--output", "-o", help="Image to write, Gy; .dcm: an RTDOSE.", show_default=False
        ),
        mode: str = typer.Option("plain", help="plain: dose at the same tissue; mass: energy over mass."),
        weight: Optional[List[float]] = typer.Option(
            None, help="Share of the time of each phase (repeatable). [even]"
        ),
    ) -> None:
        """Sum the dose of all phases on the reference phase, along the fields of a sequence; or warp one
        dose along one transform.
        """
        import SimpleITK as sitk

        from .dose import MODES, PhaseDose, read_dose, sum_doses
        from .images import write_image

        if mode not in MODES:
            raise InputError(f"There is no way {mode} to warp a dose; choose {' or '.join(MODES)}.")
        if result.is_file() and result.suffix.lower() != ".json":
            name, parts, image, path = _dose_of_pair(result, doses, mode, images)
        else:
            name, parts, image, path = _doses_of_sequence(result, doses, mode, weight)
        read = {file: read_dose(file) for file in set(doses)}
        total = sum_doses([PhaseDose(read[file], *rest) for file, *rest in parts], image, mode)
        if output.suffix.lower() == ".dcm":
            from .dicom_registration import first_of_series
            from .rtdose import write_rtdose

            what = f"{mode}, " + (
                f"mean of {len(parts)} phases on {name}" if len(parts) > 1 else f"on {name}"
            )
            write_rtdose(
                total,
                output,
                image=first_of_series(path),
                source=first_of_series(doses[0]),
                comment=what,
            )
        else:
            write_image(total, output)
        values = sitk.GetArrayViewFromImage(total)
        cli._out.print(f"Dose on {cli._plain(name)}, {mode}: largest {values.max():.2f} Gy")
        cli._out.print(cli._plain(output))

    @app.command(epilog=epilog)
    @cli.guarded
    @takes(
        {"images": PairFiles},
        options=("fixed", "moving"),
        only=("fixed", "moving"),
        texts={"moving": "The image on which they were drawn.", "fixed": "The image that gets them."},
    )
    def contours(
        images: PairFiles,
        structures: Path = typer.Argument(
            ..., metavar="RTSTRUCT", help="Structures drawn on the moving image.", show_default=False
        ),
        transform: Path = cli.TRANSFORM,
        output: Path = typer.Option(
            ...,
            "--output",
            "-o",
            help=".dcm: an RTSTRUCT; .nrrd, .mha or .nii.gz: a label map.",
            show_default=False,
        ),
    ) -> None:
        """Carry RT structures from the moving to the fixed image."""
        from .contours import read_structures, warp_structure, write_structures
        from .coverage import reference_note
        from .dicom_registration import headers_of_series
        from .field import DisplacementField
        from .geometry import Grid
        from .images import read_image, write_image
        from .transforms import read_transform

        notes: List[str] = []
        mapping = read_transform(transform, notes)
        source, target = (
            Grid.from_image(read_image(path, notes=notes)) for path in (images.moving, images.fixed)
        )
        notes += reference_note(mapping, target)
        mapping = DisplacementField.of(mapping, target)
        masks = {
            name: warp_structure(mask, mapping, target)
            for name, mask in read_structures(structures, source).items()
        }
        if output.suffix.lower() == ".dcm":
            write_structures(masks, output, images=headers_of_series(images.fixed))
        else:
            import numpy as np
            import SimpleITK as sitk

            labels = np.zeros(target.shape, np.uint8 if len(masks) < 256 else np.uint16)
            covered = False
            for number, mask in enumerate(masks.values(), 1):
                inside = sitk.GetArrayViewFromImage(mask) > 0
                covered = covered or bool(labels[inside].any())
                labels[inside] = number
            if covered:
                notes.append(
                    "Some structures overlap: a label map holds the later one there; write .dcm to keep all."
                )
            write_image(target.image(labels), output)
        cli._show_notes(notes)
        for number, name in enumerate(masks, 1):
            cli._out.print(f"{number}: {cli._plain(name)}")
        cli._out.print(cli._plain(output))

    @app.command(epilog=epilog)
    @cli.guarded
    @takes(
        {"images": PairFiles},
        options=("fixed", "moving"),
        optional=("fixed", "moving"),
        only=("fixed", "moving"),
        texts={
            "fixed": "Fixed CT: the grid to reach over; a DICOM folder gives patient, study and frame.",
            "moving": "Moving CT: a DICOM folder gives its frame of reference.",
        },
    )
    def convert(
        images: PairFiles,
        transform: Path = cli.TRANSFORM,
        output: Path = typer.Option(
            ...,
            "--output",
            "-o",
            help=".dcm (Deformable Spatial Registration), .h5, .tfm, .nrrd, .nii.gz or .mha.",
            show_default=False,
        ),
    ) -> None:
        """Write a transform in another format, DICOM Deformable Spatial Registration included."""
        from .coverage import reference_note
        from .dicom_registration import first_of_series, write_registration
        from .field import DisplacementField
        from .geometry import Grid
        from .images import read_volume
        from .transforms import read_transform

        notes: List[str] = []
        mapping = read_transform(transform, notes)
        grid = None if images.fixed is None else Grid.from_image(read_volume(images.fixed, notes=notes))
        if grid is not None:
            notes += reference_note(mapping, grid)
        if grid is not None:
            mapping = DisplacementField.of(mapping, grid)
        elif not isinstance(mapping, DisplacementField):
            raise InputError(f"{transform} brings no grid of its own; give the fixed image too (--fixed).")
        if output.suffix.lower() == ".dcm":
            headers = [
                None if path is None else first_of_series(path) for path in (images.fixed, images.moving)
            ]
            write_registration(mapping, output, fixed=headers[0], moving=headers[1], reach=grid)
        else:
            (mapping if grid is None else mapping.covering(grid)).write(output)
        cli._show_notes(notes)
        cli._out.print(f"Wrote {cli._plain(output)}")

    @app.command(epilog=epilog)
    @cli.guarded
    def qa(
        result: Path = typer.Argument(
            ...,
            metavar="RESULT",
            help="Folder that `register` or `sequence` wrote.",
            show_default=False,
        ),
        output: Path = typer.Option(
            ..., "--output", "-o", help="Folder for qa.pdf, qa.html and qa.json.", show_default=False
        ),
        inverse: Optional[Path] = typer.Option(
            None, help="A transform moving -> fixed: inverse consistency, and a better uncertainty map."
        ),
        as_json: bool = cli.JSON,
        quiet: bool = cli.QUIET,
    ) -> None:
        """A quality report to be signed, after AAPM TG-132: measurements, tolerances, pictures,
        uncertainty, a form.
        """
        from .qa.checks import examine
        from .qa.write import write_qa

        with cli._progress(quiet) as progress:
            case = examine(result, inverse=inverse, progress=progress)
            paths = write_qa(case, output)
        if as_json:
            cli.print_json(json.dumps(case.report, indent=2, ensure_ascii=False))
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for column in ("check", "measured", "tolerance", "verdict"):
            table.add_column(column)
        for check in case.report["checks"]:
            table.add_row(*(cli._plain(check[key]) for key in ("name", "measured", "tolerance", "verdict")))
        cli._out.print(table)
        for path in paths:
            cli._out.print(cli._plain(path))


def _doses_of_sequence(
    result: Path, doses: list[Path], mode: str, weight: list[float] | None
) -> tuple[str, list[tuple[Any, ...]], Any, Path]:
    """The reference's name, a phase each (file of the dose, field, CT, weight), the reference's grid, its
    path.
    """
    from .field import DisplacementField
    from .geometry import Grid
    from .sequence.steps import read_result

    report, phases = read_result(result)
    if len(doses) not in (1, len(phases)):
        raise InputError(
            f"{len(doses)} doses were given for {len(phases)} phases; give one for each, or one for all."
        )
    if weight and len(weight) != len(phases):
        raise InputError(f"{len(weight)} weights were given for {len(phases)} phases; give one for each.")
    parts: list[tuple[Any, ...]] = []
    grid, path = None, None
    for k, phase in enumerate(phases):
        reference = phase.name == report["reference"]
        image = phase.image() if mode == "mass" or reference else None
        if reference and image is not None:
            grid, path = Grid.from_image(image), phase.path
        field = None if reference else DisplacementField.read(result / f"field_{phase.name}.nrrd")
        parts.append((doses[k % len(doses)], field, image, weight[k] if weight else 1.0))
    if grid is None or path is None:
        raise InputError(f"{result} does not say which phase is the reference; run sequence again.")
    return report["reference"], parts, grid, path


def _dose_of_pair(
    transform: Path, doses: list[Path], mode: str, images: PairFiles
) -> tuple[str, list[tuple[Any, ...]], Any, Path]:
    """As ``_doses_of_sequence``, for one transform."""
    from .field import DisplacementField
    from .geometry import Grid
    from .images import read_image
    from .transforms import read_transform

    fixed, moving = images.fixed, images.moving
    if len(doses) != 1:
        raise InputError(f"{len(doses)} doses were given with one transform; give one.")
    if fixed is None or (mode == "mass" and moving is None):
        wanted = "--fixed" if fixed is None else "--moving, whose density weighs the dose"
        raise InputError(f"{transform} is a transform; give its image too: {wanted}.")
    mapping, grid = read_transform(transform), Grid.from_image(read_image(fixed))
    mapping = DisplacementField.of(mapping, grid)
    image = read_image(moving) if moving is not None and mode == "mass" else None
    return fixed.name, [(doses[0], mapping, image, 1.0)], grid, fixed
