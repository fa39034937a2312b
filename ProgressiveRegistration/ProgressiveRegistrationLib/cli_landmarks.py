"""The command about landmarks: ``suggest``. ``cli`` adds it to its own."""

# Typer reads annotations at run time, also on Python 3.9.
# ruff: noqa: UP045
from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer


def add_commands(app: typer.Typer, cli: Any, epilog: str) -> None:
    """Add this file's command to ``app``; ``cli`` is the module with its helpers."""

    @app.command(epilog=epilog)
    @cli.guarded
    def suggest(
        fixed: Path = cli.FIXED,
        output: Path = typer.Option(
            ...,
            "--output",
            "-o",
            help="Landmark file to write: .mrk.json, .fcsv, .csv, .pts.",
            show_default=False,
        ),
        count: int = typer.Option(30, help="How many at most."),
        fixed_mask: Optional[Path] = cli.FIXED_MASK,
        fixed_series: Optional[str] = cli.FIXED_SERIES,
        moving: Optional[Path] = typer.Option(
            None, help="Moving CT: partners are looked for in it, where TRANSFORM leads."
        ),
        moving_series: Optional[str] = cli.MOVING_SERIES,
        transform: Optional[Path] = typer.Option(None, help="Fixed -> moving; none: the scans as they lie."),
        moving_output: Optional[Path] = typer.Option(None, help="Landmark file for the partners."),
    ) -> None:
        """Suggest landmarks: distinct, well spread points in the lungs, and their partners in another scan.

        A person should look at each before it counts (in Slicer: Landmarks > Suggest).
        """
        from .errors import InputError
        from .suggest import suggest_files

        if (moving is None) != (moving_output is None):
            raise InputError("Partners need both --moving and --moving-output.")
        for line in suggest_files(
            fixed,
            output,
            count=count,
            fixed_mask=fixed_mask,
            fixed_series=fixed_series,
            moving=moving,
            moving_series=moving_series,
            transform=transform,
            moving_output=moving_output,
        ):
            cli._out.print(cli._plain(line))
