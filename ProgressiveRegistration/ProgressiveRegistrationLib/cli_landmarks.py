"""The command about landmarks: ``suggest``. ``cli`` adds it to its own."""

# Typer reads annotations at run time, also on Python 3.9.
# ruff: noqa: UP045
from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from .cli_options import takes
from .options import IMAGE_CHOICES, PairFiles


def add_commands(app: typer.Typer, cli: Any, epilog: str) -> None:
    """Add this file's command to ``app``; ``cli`` is the module with its helpers."""

    @app.command(epilog=epilog)
    @cli.guarded
    @takes(
        {"files": PairFiles},
        options=("moving",),
        optional=("moving",),
        only=("fixed", "moving", "fixed_mask", *IMAGE_CHOICES),
        texts={"moving": "Moving CT: partners are looked for in it, where TRANSFORM leads."},
    )
    def suggest(
        files: PairFiles,
        output: Path = typer.Option(
            ...,
            "--output",
            "-o",
            help="Landmark file to write: .mrk.json, .fcsv, .csv, .pts.",
            show_default=False,
        ),
        count: int = typer.Option(30, help="How many at most."),
        transform: Optional[Path] = typer.Option(None, help="Fixed -> moving; none: the scans as they lie."),
        moving_output: Optional[Path] = typer.Option(None, help="Landmark file for the partners."),
    ) -> None:
        """Suggest landmarks: distinct, well spread points in the lungs, and their partners in another scan.

        A person should look at each before it counts (in Slicer: Landmarks > Suggest).
        """
        from .errors import InputError
        from .suggest import suggest_files

        if (files.moving is None) != (moving_output is None):
            raise InputError("Partners need both --moving and --moving-output.")
        for line in suggest_files(
            files, output, count=count, transform=transform, moving_output=moving_output
        ):
            cli._out.print(cli._plain(line))
