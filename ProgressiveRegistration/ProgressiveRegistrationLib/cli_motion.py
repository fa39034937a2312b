"""Commands about breathing: ``sequence`` and ``ventilation``. ``cli`` adds them to its own."""

# Typer reads annotations at run time, also on Python 3.9.
# ruff: noqa: UP006, UP035, UP045
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, List, Optional

import typer

from .statistics import TAIL, TAIL_SHORT


def add_commands(app: typer.Typer, cli: Any, epilog: str) -> None:
    """Add this file's commands to ``app``; ``cli`` is the module with its helpers."""

    @app.command(epilog=epilog)
    @cli.guarded
    def sequence(
        phases: List[Path] = typer.Argument(
            ...,
            metavar="PHASES...",
            help="The phases in their order: images or DICOM folders; or one folder, 4D image or "
            "table (.csv) with all of them.",
            show_default=False,
        ),
        output: Path = typer.Option(
            ..., "--output", "-o", help="Folder for the results.", show_default=False
        ),
        reference: Optional[str] = typer.Option(
            None, help="Name of the phase to register to. [the one with the smallest lungs: end-exhale]"
        ),
        landmarks: Optional[List[str]] = typer.Option(
            None,
            help="A landmark file for each phase, in the same order; - where there is none (repeatable).",
        ),
        cyclic: bool = typer.Option(
            True,
            "--cyclic/--not-cyclic",
            help="The last phase leads to the first again (4DCT), or not (follow-ups).",
        ),
        agreement: bool = typer.Option(
            True,
            "--agreement/--no-agreement",
            help="Register neighbouring phases too, and make all fields agree; twice the time.",
        ),
        warped: bool = typer.Option(
            True, "--warped/--no-warped", help="Write every phase as brought onto the reference."
        ),
        preset: str = cli.PRESET,
        model: Optional[str] = cli.MODEL,
        device: str = cli.DEVICE,
        workers: Optional[int] = typer.Option(None, help="So many processes on this machine (needs Dask)."),
        scheduler: Optional[str] = typer.Option(None, help="Address of a Dask scheduler."),
        threads: Optional[int] = typer.Option(None, help="Threads of a registration."),
        as_json: bool = cli.JSON,
        quiet: bool = cli.QUIET,
    ) -> None:
        """Register all phases of a 4DCT, or follow-ups, to one: fields, mid-position, amplitude,
        ventilation, trajectories.

        Start it again to go on: finished registrations are known by the checksums of their inputs and are
        not done twice.
        """
        from .batch.pair import BatchOptions, check_options
        from .sequence.phases import find_phases
        from .sequence.run import Sequence, run_sequence
        from .sequence.steps import Settings

        check_options(BatchOptions(preset=preset, model=model, device=device))
        job = Sequence(
            find_phases(phases, landmarks or ()),
            output,
            Settings(preset, model, device, threads),
            reference=reference,
            cyclic=cyclic,
            agreement=agreement,
            warped=warped,
            command=cli._command(),
        )
        tell = None if quiet else lambda line: cli._errors.print(cli._plain(line))
        with cli._progress(quiet) as progress:
            result = run_sequence(job, workers=workers, scheduler=scheduler, tell=tell, progress=progress)
        if as_json:
            cli.print_json(json.dumps(result.report, indent=2, ensure_ascii=False))
            return
        _show_sequence(cli, result.report)


def _show_sequence(cli: Any, report: dict) -> None:
    from rich.table import Table

    for note in report["notes"]:
        cli._out.print(f"[yellow]Note:[/yellow] {cli._plain(note)}")
    table = Table(box=None, pad_edge=False)
    for column in (
        "phase",
        "lungs (l)",
        "started from",
        "displacement (mm)",
        "TRE before",
        "TRE (mm)",
        "folding",
    ):
        table.add_column(column, justify="left" if column in ("phase", "started from") else "right")
    for phase in report["phases"]:
        error = phase.get("tre_mm")
        row = [phase["name"], f"{phase['lungs_litres']:.2f}"]
        if "start" not in phase:
            row += ["the reference"]
        else:
            row += [phase["start"], f"{phase['displacement_mm']['mean']:.2f}"]
            row += [f"{error[when]['mean']:.2f}" if error else "" for when in ("before", "after")]
            folded = phase["folding"]["lung_percent"]
            row += ["" if folded is None else f"{folded:.3g} %"]
        table.add_row(*(cli._plain(cell) for cell in row))
    cli._out.print(table)
    a = report["amplitude_mm"]
    cli._out.print(
        f"Amplitude in the lungs: mean {a['mean']:.1f} mm, {TAIL_SHORT} {a[TAIL]:.1f} mm, "
        f"largest {a['max']:.1f} mm"
    )
    if report.get("closing_error_mm"):
        e = report["closing_error_mm"]
        cli._out.print(
            f"Closing error round the breath: mean {e['mean']:.2f} mm, {TAIL_SHORT} {e[TAIL]:.2f} mm"
        )
    if report.get("ventilation"):
        v = report["ventilation"]
        air = v["lungs"]["hu"]
        cli._out.print(
            f"Ventilation {cli._plain(v['exhale'])} to {cli._plain(v['inhale'])}: "
            f"{v['lungs']['jacobian']['mean']:.3f} by volume change, "
            f"{'not known' if air is None else format(air['mean'], '.3f')} by air"
        )
    cli._out.print(f"{report['seconds']['total']:.1f} s")
    for name in ("sequence.html", "sequence.json"):
        cli._out.print(cli._plain(Path(next(iter(report["outputs"].values()))).parent / name))
