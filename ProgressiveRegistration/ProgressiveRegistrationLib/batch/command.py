"""The command ``batch`` with its options: of the command line, and of the script that runs in Slicer.

argparse, because Slicer's Python brings neither Typer nor Rich.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import textwrap
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, cast

from ..console import print_json
from ..errors import Cancelled, ProgressiveRegistrationError, exit_codes
from ..options import BOXES, ENDING, ENDINGS, FLAG, Options, flag_of, parse
from .pair import BatchOptions
from .table import NEEDED, OPTIONAL, read_pairs

SOME_FAILED = 8
EXIT_CODES = f"""
exit codes: {exit_codes({0: "all pairs are done", SOME_FAILED: "some pairs failed, the others are done"})}.
Another code than these two means that the batch itself could not go on. What is finished always stays.
"""
DESCRIPTION = """
Register all pairs of a CSV file, each into its own folder OUT/<id> with the files and report of `register`,
and keep OUT/summary.csv and OUT/summary.html up to date. Start it again to go on: finished pairs are
recognised by the checksums of their inputs, their options and their model, and are not done twice; failed
ones are tried again. When inputs or options of a pair have changed, it is done again and its earlier files
are removed.
"""
COLUMNS = f"""
columns of PAIRS.csv, by name, paths relative to the file: {", ".join(NEEDED)}; and as needed
{", ".join(OPTIONAL)}.
transform is the name of the transform's file; several labels of exclude_landmarks have ; between them.
"""


def make_parser(program: str = "progressive-registration batch") -> argparse.ArgumentParser:
    """The options, with the names and meanings they have for ``register``."""
    parser = argparse.ArgumentParser(
        program,
        description=textwrap.fill(DESCRIPTION.strip(), 100),
        epilog="\n\n".join(textwrap.fill(text.strip(), 100) for text in (COLUMNS, EXIT_CODES)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("pairs", metavar="PAIRS.csv", type=Path, help="the table of pairs")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for the results")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="N processes on this machine (needs Dask)")
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler, such as tcp://node1:8786; its workers (best: one thread each) must see the "
        "same folders",
    )
    add("--threads", type=int, metavar="N", help="threads of a pair [with --workers: cores / workers]")
    for about in fields(Options):
        _add_option(parser, about)
    add("--json", action="store_true", help="print the summary's rows and totals as JSON")
    add("-q", "--quiet", action="store_true", help="no progress")
    return parser


def _add_option(parser: argparse.ArgumentParser, about: Field) -> None:
    """The option of a field of ``Options``, as ``register`` has it."""
    flag, kind, default = f"--{flag_of(about)}", about.metadata["kind"], about.default
    text = about.metadata["help"].rstrip(".")
    if kind == FLAG:
        if default:
            parser.add_argument(
                f"--no-{flag[2:]}", dest=about.name, action="store_false", help=f"turn off: {text}"
            )
        else:
            parser.add_argument(flag, dest=about.name, action="store_true", help=text)
        return
    shown = ", ".join(cast("tuple[str, ...]", default)) if kind == ENDINGS else default
    parser.add_argument(
        flag,
        dest=about.name,
        action="append" if kind == ENDINGS else "store",
        metavar={ENDING: "ENDING", ENDINGS: "ENDING", BOXES: "BOXES"}.get(kind),
        help=text + (f" [{shown}]" if shown is not None else ""),
    )


def main(arguments: list[str], program: str = "progressive-registration batch") -> int:
    """Run the command; returns its exit code. Figures go to standard output, the rest to standard error."""
    try:
        given = make_parser(program).parse_args(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    try:
        return run(given, shlex.join([program, *arguments]))
    except ProgressiveRegistrationError as error:
        print(error if isinstance(error, Cancelled) else f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("Cancelled; what is finished stays.", file=sys.stderr)
        return Cancelled.exit_code


def run(given: argparse.Namespace, command: str) -> int:
    """Do what the parsed options say; raises ProgressiveRegistrationError."""
    from .run import run_batch
    from .summary import summary_rows, totals

    pairs, notes = read_pairs(given.pairs)
    chosen = {f.name: parse(f, getattr(given, f.name)) for f in fields(Options)}
    options = BatchOptions(**chosen, threads=given.threads)
    tell = _Printer(given.quiet)
    for note in notes:
        tell(f"Note: {note}")
    records = run_batch(
        pairs,
        given.output,
        options,
        workers=given.workers,
        scheduler=given.scheduler,
        command=command,
        table=given.pairs,
        tell=tell,
        finished=tell.finished,
        progress=tell.progress,
    )
    rows = summary_rows(records)
    total = totals(rows)
    if given.json:
        print_json(json.dumps({"pairs": rows, "total": total}, indent=2, ensure_ascii=False))
    else:
        _show(total, given.output)
    return SOME_FAILED if total["failed"] else 0


class _Printer:
    """Sentences, a line a finished pair, and on a terminal the stage of the pair that is at work."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.live = not quiet and sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, sentence: str) -> None:
        if not self.quiet:
            self._line(sentence)

    def finished(self, record: dict, count: int, pairs: int) -> None:
        if record["status"] == "failed":
            self._line(f"[{count}/{pairs}] {record['id']}: failed: {record['error']}")
        elif not self.quiet:
            again = "done before, " if record.get("reused") else ""
            self._line(f"[{count}/{pairs}] {record['id']}: {again}{_figures(record['figures'])}")

    def progress(self, stage: str, fraction: float, text: str) -> None:
        if self.live:
            print(f"\r\033[K{100 * fraction:3.0f} %  {text}", end="", file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        print(("\r\033[K" if self.live else "") + text, file=sys.stderr, flush=True)


def _figures(figures: dict[str, Any]) -> str:
    parts = []
    if figures["landmarks"]:
        parts.append(
            f"TRE {figures['tre_before_mean_mm']:.2f} -> {figures['tre_after_mean_mm']:.2f} mm "
            f"({figures['landmarks']} landmarks)"
        )
    folding = figures["folding_lung_percent"]
    if folding is not None:
        parts.append(f"folding {folding:.3g} %")
    return ", ".join([*parts, f"{figures['seconds']:.1f} s"])


def _show(total: dict[str, Any], output: Path) -> None:
    print(f"{total['done']} of {total['pairs']} pairs done, {total['failed']} failed")
    if total["landmarks"]:
        numbers = [total[f"tre_{when}_{key}_mm"] for when in ("before", "after") for key in ("mean", "sd")]
        print(
            "TRE over {:,} landmarks: {:.2f} ± {:.2f} mm before, {:.2f} ± {:.2f} mm after".format(
                total["landmarks"], *numbers
            )
        )
    print(output / "summary.html")
