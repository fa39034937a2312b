"""The command that lists DICOM volumes."""

# Typer reads annotations at run time, also on Python 3.9.
from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import typer
from rich.console import Console
from rich.table import Table

from .errors import InputError

COLUMNS = ("number", "description", "modality", "slices", "size", "spacing (mm)", "phase", "remark", "UID")


def add_commands(app: typer.Typer, cli: ModuleType, epilog: str) -> None:
    """Add ``dicom`` to the program."""

    @app.command(epilog=epilog)
    @cli.guarded
    def dicom(
        folder: Path = typer.Argument(
            ..., metavar="FOLDER", help="Folder of DICOM files.", show_default=False
        ),
        as_json: bool = typer.Option(False, "--json", help="Print the list as JSON."),
    ) -> None:
        """List the volumes in a DICOM folder and those below: what --series takes, and what reading says."""
        from .reading.dicom_list import described, list_folder

        found, notes = list_folder(folder)
        if not found:
            raise InputError(f"{folder} holds no DICOM slices of an image; give a folder with a CT series.")
        rows = described(found)
        if as_json:
            cli.print_json(json.dumps({"volumes": rows, "notes": notes}, indent=2))
            return
        plain = cli._plain
        out = cli._out if cli._out.is_terminal else Console(width=240, highlight=False)
        for place in dict.fromkeys(row["folder"] for row in rows):
            table = Table(box=None, pad_edge=False)
            for column in COLUMNS:
                table.add_column(column, overflow="fold")
            for row in rows:
                if row["folder"] == place:
                    size = " x ".join(map(str, row["size"]))
                    spacing = " x ".join(f"{v:.4g}" for v in row["spacing_mm"])
                    cells = [row[k] for k in ("number", "description", "modality", "slices")]
                    cells += [size, spacing, row["phase"], row["remark"], row["uid"]]
                    table.add_row(*("" if cell is None else plain(cell) for cell in cells))
            out.print(plain(place))
            out.print(table)
        cli._show_notes(notes)
