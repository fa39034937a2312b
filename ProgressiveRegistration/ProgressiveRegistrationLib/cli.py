"""The command line: ``progressive-registration register FIXED MOVING -o OUT`` and its companions.

Results go to files, a summary (or ``--json``) to standard output, progress and errors to standard error.
"""

# Typer reads annotations at run time, also on Python 3.9.
# ruff: noqa: UP006, UP035, UP045
from __future__ import annotations

import functools
import gc
import json
import os
import shlex
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, TypeVar, cast

import typer
from rich.console import Console
from rich.table import Table

from . import __version__
from .cli_benchmark import add_commands as add_benchmark
from .cli_clinic import add_commands as add_clinic
from .cli_dicom import add_commands as add_dicom
from .cli_landmarks import add_commands as add_landmarks
from .cli_motion import add_commands as add_motion
from .cli_options import option, takes
from .cli_web import add_commands as add_web
from .console import print_json
from .errors import (
    Cancelled,
    ClusterError,
    InputError,
    OutputError,
    ProgressiveRegistrationError,
    exit_codes,
    memory_errors,
)
from .files import keeping
from .memory import collect_seldom, keep_freed_memory
from .options import Options, PairFiles

EXIT_CODES = f"""
Exit codes: {exit_codes({0: "done"}, without=(ClusterError,))}.
Whenever it is not 0, no result was written.
"""

app = typer.Typer(
    name="progressive-registration",
    help="Register lung CT in seconds, and know how good it is.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
OUTPUTS = ("output", "moving_output")  # the options that name what is written
# How long a thread may keep others waiting: while one imports torch, another finds the lungs in many short
# steps, and would wait for Python's 5 ms before each.
SWITCH_S = 0.0005
_typed: List[str] = []  # the arguments of this run
_errors = Console(stderr=True, soft_wrap=True, highlight=False)
_out = Console(soft_wrap=True, highlight=False)

TRANSFORM = typer.Argument(
    ...,
    metavar="TRANSFORM",
    help="Fixed -> moving: an ITK transform (.h5, .tfm, .txt) or displacement field (.nrrd, .nii.gz, .mha).",
    show_default=False,
)
JSON = typer.Option(False, "--json", help="Print the report as JSON, the same as in its .json file.")
QUIET = typer.Option(False, "--quiet", "-q", help="No progress.")
PRESET, MODEL, DEVICE = (option(Options, name) for name in ("preset", "model", "device"))
REPORT = option(Options, "report")
MOVING_SERIES, MOVING_FRAME = (option(PairFiles, name) for name in ("moving_series", "moving_frame"))


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"progressive-registration {__version__}")
        raise typer.Exit


@app.callback()
def _before_any_command(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_tell_version, help="Print the version and exit."
    ),
) -> None:
    """Options that need no command."""


Command = TypeVar("Command", bound=Callable[..., Any])


def guarded(command: Command) -> Command:
    """One sentence and an exit code for what a user can put right; a traceback for our own faults alone.

    No file that is given to the command is written over by it.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        given = [v for name, v in options.items() if name not in OUTPUTS]
        paths = [v for value in given for v in (value if isinstance(value, list) else [value])]
        try:
            with memory_errors(), keeping(v for v in paths if isinstance(v, Path)):
                return command(*args, **options)
        except Cancelled as error:
            _errors.print(_plain(error))
            raise typer.Exit(error.exit_code) from None
        except ProgressiveRegistrationError as error:
            _errors.print(f"[red]Error:[/red] {_plain(error)}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _errors.print(str(Cancelled()))
            raise typer.Exit(Cancelled.exit_code) from None
        except MemoryError:
            _errors.print(
                "[red]Error:[/red] The machine's memory is too small for these images; nothing was written."
            )
            raise typer.Exit(1) from None

    return cast(Command, run)


@app.command(epilog=EXIT_CODES)
@guarded
@takes({"files": PairFiles, "options": Options})
def register(
    files: PairFiles,
    options: Options,
    output: Path = typer.Option(..., "--output", "-o", help="Folder for the results.", show_default=False),
    series: Optional[str] = typer.Option(None, help="The same volume of both DICOM folders."),
    as_json: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Register MOVING to FIXED and write the transform, the warped image and a report into a folder."""
    from .jobs import Job, register_files

    files = replace(
        files,
        fixed_series=files.fixed_series or series,
        moving_series=files.moving_series or series,
    )
    with _progress(quiet) as progress:
        job = Job(files, options, output, command=_command())
        result = register_files(job, progress=progress)
    _show(result, as_json)


@app.command(epilog=EXIT_CODES)
@guarded
@takes(
    {"files": PairFiles},
    options=("fixed", "moving"),
    optional=("moving",),
    without=("moving_mask", "moving_labels"),
)
def evaluate(
    files: PairFiles,
    transform: Path = TRANSFORM,
    inverse: Optional[Path] = typer.Option(
        None, help="A transform moving -> fixed, for inverse consistency."
    ),
    output: Optional[Path] = typer.Option(
        None, "--output", "-o", help="Folder for report.json and report.html."
    ),
    report: bool = REPORT,
    as_json: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Measure a transform that maps FIXED points to MOVING points, whichever program made it."""
    from .jobs import evaluate_files

    with _progress(quiet) as progress:
        result = evaluate_files(
            transform,
            files,
            inverse=inverse,
            output=output,
            html=report,
            command=_command(),
            progress=progress,
        )
    _show(result, as_json)


@app.command(epilog=EXIT_CODES)
@guarded
def apply(
    transform: Path = TRANSFORM,
    moving: Optional[Path] = typer.Option(
        None, help="Image to warp; with --landmarks: the image whose voxels a .txt result counts."
    ),
    reference: Optional[Path] = typer.Option(
        None, help="Fixed image: its grid is the result's; with --landmarks: its voxels are a .txt file's."
    ),
    moving_series: Optional[str] = MOVING_SERIES,
    reference_series: Optional[str] = typer.Option(None, help="The same for the reference's DICOM folder."),
    moving_frame: Optional[int] = MOVING_FRAME,
    reference_frame: Optional[int] = typer.Option(None, help="Which volume of a reference time sequence."),
    label: bool = typer.Option(False, "--label", help="MOVING is a label map: nearest neighbour."),
    landmarks: Optional[Path] = typer.Option(
        None, help="Fixed landmarks to carry to the moving image, instead."
    ),
    columns: Optional[str] = typer.Option(None, help="Which points of a CSV with several sets."),
    output: Path = typer.Option(
        ..., "--output", "-o", help="Image or landmark file to write.", show_default=False
    ),
) -> None:
    """Warp an image, a label map or landmarks with a transform."""
    from .jobs import apply_image, apply_points

    series: Dict[str, Any] = {
        "moving_series": moving_series,
        "reference_series": reference_series,
        "moving_frame": moving_frame,
        "reference_frame": reference_frame,
    }
    if landmarks is not None:
        notes = apply_points(
            transform, landmarks, output, reference=reference, moving=moving, columns=columns, **series
        )
    elif moving is None:
        raise InputError("Give either --moving with --reference, to warp an image, or --landmarks.")
    elif reference is None:
        raise InputError("Give --reference, the image whose grid the result gets.")
    else:
        notes = apply_image(transform, moving, reference, output, label=label, **series)
    _show_notes(notes)
    _out.print(f"Wrote {_plain(output)}")


@app.command(epilog=EXIT_CODES)
@guarded
def models(as_json: bool = JSON) -> None:
    """List the trained models on this machine."""
    from .network.model import available_models, metrics_text
    from .report.content import jsonable

    cards = available_models()
    if as_json:
        print_json(json.dumps(jsonable(cards), indent=2, ensure_ascii=False))
        return
    if not cards:
        _out.print("No model is installed.")
        return
    shown = ("name", "version", "width", "levels", "steps", "sha256")
    table = Table(*shown, box=None, pad_edge=False)
    for card in cards:
        table.add_row(*(_plain(getattr(card, key))[: 12 if key == "sha256" else None] for key in shown))
    _out.print(table)
    for card in cards:
        data = ", ".join(
            f"{d.get('name', '?')} (scans: {d.get('scans', '?')}; {d.get('licence', '?')})"
            for d in card.training_data
        )
        _out.print(f"\n{_plain(card.name)} {_plain(card.version)}, licence {_plain(card.licence)}")
        for title, text in (
            ("", card.description),
            ("Trained on: ", data),
            ("Measured: ", metrics_text(card.metrics)),
        ):
            if text:
                _out.print(f"  {title}{_plain(text)}")


@app.command(epilog=EXIT_CODES)
@guarded
def phantom(
    output: Path = typer.Option(
        ..., "--output", "-o", help="Folder for the pair and its truth.", show_default=False
    ),
    seed: int = typer.Option(0, help="Another number, another chest."),
    amplitude: float = typer.Option(20.0, help="Mean motion of the diaphragm, mm."),
    phases: Optional[int] = typer.Option(
        None, help="A 4DCT of so many phases (10 is usual), in place of the pair.", show_default=False
    ),
    hysteresis: float = typer.Option(
        0.0, help="Of a 4DCT: the share of a breath by which the chest wall lags behind the diaphragm."
    ),
) -> None:
    """Make up a breathing chest: two CTs, or a 4DCT; masks, landmarks and the exact fields between them."""
    from .files import refuse_strangers, staged_folder

    with staged_folder(output) as folder:
        if phases is None:
            from .phantom.pair import breathing_thorax, write_pair

            names = [path.name for path in write_pair(breathing_thorax(seed, amplitude=amplitude), folder)]
        else:
            from .phantom.cycle import breathing_cycle, write_cycle

            cycle = breathing_cycle(seed, phases=phases, hysteresis=hysteresis, amplitude=amplitude)
            names = [path.name for path in write_cycle(cycle, folder)]
        refuse_strangers(output, names)
    for name in names:
        _out.print(_plain(output / name))


@app.command(epilog=EXIT_CODES)
@guarded
def demo(
    output: Path = typer.Option(Path("demo"), "--output", "-o", help="Folder for the results."),
    preset: str = PRESET,
    model: Optional[str] = MODEL,
    device: str = DEVICE,
    seed: int = typer.Option(0, help="Another number, another chest."),
    as_json: bool = JSON,
    quiet: bool = QUIET,
) -> None:
    """Register a made-up breathing chest, exhale and inhale, and write a report with its exact landmarks."""
    from .files import refuse_strangers, staged_folder
    from .jobs import Job, register_files
    from .phantom.pair import breathing_thorax, write_pair

    with _progress(quiet) as progress:
        if progress is not None:
            progress("phantom", 0.0, "Making up a breathing chest")
        # The pair comes into the folder together with the results, or not at all.
        with staged_folder(output) as folder:
            names = [path.name for path in write_pair(breathing_thorax(seed), folder)]
            refuse_strangers(output, names)
            files = PairFiles(
                folder / "fixed.nrrd",
                folder / "moving.nrrd",
                folder / "fixed.mrk.json",
                folder / "moving.mrk.json",
                moving_labels=folder / "moving_lungs.nrrd",
            )
            options = Options(preset=preset, model=model, device=device)
            job = Job(files, options, folder, final=output, command=_command())
            result = register_files(job, progress=progress)
    _show(result, as_json)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def batch(context: typer.Context) -> None:
    """Register all pairs of a CSV file, resumably, here or on a Dask cluster (see batch --help)."""
    # Its options are argparse's, which the script for Slicer shares.
    from .batch.command import main as run

    raise typer.Exit(run(context.args))


def main(arguments: Optional[List[str]] = None) -> int:
    """Console entry point; returns the exit code."""
    _typed[:] = sys.argv[1:] if arguments is None else arguments
    if arguments is None:  # called by the console script: the process is ours
        keep_freed_memory()
        collect_seldom()
        sys.setswitchinterval(SWITCH_S)
    for stream in (sys.stdout, sys.stderr):  # a console's encoding must not make a finished run a failure
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # A batch system's polite kill is a cancellation too.
    previous = None
    try:
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread
        pass
    try:
        app(args=list(_typed), prog_name="progressive-registration")
    except SystemExit as end:
        code = int(end.code or 0)
        if arguments is None and code == OutputError.exit_code:
            # HDF5 crashes while the process ends when a file of it could not be written.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
        if arguments is None:
            gc.freeze()  # else Python searches all that torch made for garbage while it ends
    return 0


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """A progress callback (stage, fraction of the whole, text) that draws a bar, or None."""
    if quiet:
        yield None
        return
    if not _errors.is_terminal:
        last: tuple[str, float] = ("", -1.0)
        begun: set[str] = set()

        def tell(stage: str, fraction: float, text: str) -> None:
            nonlocal last
            # A log file gets a line a step, and one every tenth of the whole in long ones; no bar.
            since = fraction - last[1]
            if (text != last[0] and since >= 0.01) or since >= 0.1 or stage not in begun:
                last = text, fraction
                begun.add(stage)
                _errors.print(f"{100 * fraction:3.0f} %  {_plain(text)}")

        yield tell
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=32), TextColumn("{task.percentage:3.0f} %"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=_errors, transient=True) as bar:
        task = bar.add_task("Starting", total=1.0)
        yield lambda stage, fraction, text: bar.update(task, completed=fraction, description=_plain(text))


def _show_notes(notes: List[str]) -> None:
    for note in notes:
        _out.print(f"[yellow]Note:[/yellow] {_plain(note)}")


def _show(report: dict, as_json: bool) -> None:
    """Print what was written; a reader that went away does not make a failure of it."""
    try:
        _print_report(report, as_json)
        sys.stdout.flush()
    except OSError:
        # What is left in the buffer would fail again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_report(report: dict, as_json: bool) -> None:
    if as_json:
        from .report.content import to_json

        print_json(to_json(report))
        return
    from .statistics import STATISTICS, TAIL, WHEN

    _show_notes(report["notes"])
    errors = report["tre_mm"]
    if errors:
        table = Table("TRE (mm)", box=None, pad_edge=False)
        for column in (*(s.label for s in STATISTICS.values()), "landmarks"):
            table.add_column(column, justify="right")
        for key, name in WHEN.items():
            if key in errors:
                e = errors[key]
                table.add_row(name, *(f"{e[k]:.2f}" for k in STATISTICS), str(e["count"]))
        _out.print(table)
    folding = report["folding"]
    lung = folding["lung_percent"]
    lung = "not measured" if lung is None else f"{lung:.3g} %"
    _out.print(f"Folding: lung {lung}, field of view {folding['field_of_view_percent']:.3g} %")
    if report.get("inverse_consistency_mm"):
        e = report["inverse_consistency_mm"]
        _out.print(f"Inverse consistency: mean {e['mean']:.2f} mm, {STATISTICS[TAIL].label} {e[TAIL]:.2f} mm")
    if report["model"]["name"]:
        _out.print(
            f"{_plain(report['model']['name'])} {report['model']['version']}, preset {report['preset']}, "
            f"lung boxes {report['lung_boxes']}, {report['device']}"
        )
    seconds = report["seconds"]
    stages = ", ".join(f"{k.replace('_', ' ')} {v:.1f}" for k, v in seconds.items() if k != "total")
    _out.print(f"{seconds['total']:.1f} s ({stages})")
    for paths in report["outputs"].values():
        for path in paths if isinstance(paths, list) else [paths]:
            _out.print(_plain(path))


def _plain(text: Any) -> str:
    """Text in which rich sees no markup."""
    from rich.markup import escape

    return escape(str(text))


def _command() -> str:
    """The command line as typed, for the report."""
    return shlex.join(["progressive-registration", *_typed])


add_motion(app, sys.modules[__name__], EXIT_CODES)
add_benchmark(app, sys.modules[__name__], EXIT_CODES)
add_landmarks(app, sys.modules[__name__], EXIT_CODES)
add_dicom(app, sys.modules[__name__], EXIT_CODES)
add_clinic(app, sys.modules[__name__], EXIT_CODES)
add_web(app, sys.modules[__name__], EXIT_CODES)

if __name__ == "__main__":
    sys.exit(main())
