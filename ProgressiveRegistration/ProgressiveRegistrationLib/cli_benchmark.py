"""The command ``benchmark``; ``cli`` adds it to its own."""

# Typer reads annotations at run time, also on Python 3.9.
# ruff: noqa: UP006, UP035, UP045
from __future__ import annotations

import os
from pathlib import Path
from typing import Any, List, Optional

import typer


def add_commands(app: typer.Typer, cli: Any, epilog: str) -> None:
    """Add this file's command to ``app``; ``cli`` is the module with its helpers."""

    @app.command(epilog=epilog)
    @cli.guarded
    def benchmark(
        pairs: Path = typer.Argument(
            ..., metavar="PAIRS.csv", help="A batch's table: id, fixed, moving, landmarks, masks."
        ),
        output: Path = typer.Option(
            ..., "--output", "-o", help="Folder for the results.", show_default=False
        ),
        program: Optional[List[str]] = typer.Option(
            None,
            help="fast, balanced, accurate, elastix, greedy, ants, convexadam, unigradicon; repeatable. "
            "[all installed]",
        ),
        peer_python: Optional[Path] = typer.Option(
            None, help="Python of an environment that has the peers (and SimpleITK), if not this one's."
        ),
        weights: Optional[Path] = typer.Option(None, help="uniGradICON's weights, which it does not bring."),
        threads: int = typer.Option(os.cpu_count() or 1, help="Threads of every program.", min=1),
        again: bool = typer.Option(False, "--again", help="Repeat runs that are in the folder already."),
        quiet: bool = cli.QUIET,
    ) -> None:
        """Run this program and its peers on the same pairs: error, folding, seconds, memory, file size.

        Every registration is a process of its own, from files to files. Writes benchmark.json, benchmark.md
        and benchmark.html after every run; start it again to go on.
        """
        from .batch.table import read_pairs
        from .benchmark.programs import chosen
        from .benchmark.run import run_benchmark

        table, notes = read_pairs(pairs)
        python = None if peer_python is None else str(peer_python)
        programs, missing = chosen(list(program or []), python, weights)
        tell = (lambda line: None) if quiet else (lambda line: cli._errors.print(cli._plain(line)))
        run_benchmark(
            table, programs, output, threads=threads, again=again, notes=[*notes, *missing], tell=tell
        )
        for ending in ("json", "md", "html"):
            cli._out.print(cli._plain(output / f"benchmark.{ending}"))
