"""``progressive-registration-train``: train, evaluate, export."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Optional

import typer
from ProgressiveRegistrationLib.errors import InputError, ProgressiveRegistrationError
from ProgressiveRegistrationLib.memory import keep_freed_memory

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.callback()
def _root() -> None:
    """Train the progressive network, judge it, and export it."""


@app.command()
def train(
    config: Path = typer.Argument(..., help="YAML configuration, see Training/configs."),
    resume: bool = typer.Option(False, help="Continue the run's latest checkpoint."),
    start_from: Optional[Path] = typer.Option(None, help="Begin with another run's checkpoint, or a model."),  # noqa: UP045
    until: Optional[int] = typer.Option(None, help="Stop (with a checkpoint) at this iteration."),  # noqa: UP045
    minutes: float = typer.Option(
        math.inf, min=0.1, help="Stop in time for a checkpoint, to --resume later."
    ),
    profile: bool = typer.Option(False, help="Only measure what an iteration of each level costs here."),
    profile_iterations: int = typer.Option(200, min=1, help="How many of each level --profile measures."),
) -> None:
    """Train as CONFIG says (the default command)."""
    deadline = time.monotonic() + 60 * minutes
    from .config import read_config
    from .trainer import Trainer

    trainer = Trainer(read_config(config), progress=sys.stderr.isatty())
    if profile:
        from .profiling import profile as measure

        measure(trainer, profile_iterations)
        return
    reached = trainer.run(resume=resume, start_from=start_from, until=until, deadline=deadline)
    done = f"Trained to iteration {reached}" if not trainer.stop_reason else f"At iteration {reached}"
    trainer.report(f"{done} of {trainer.total}: {trainer.config.run_folder}")


@app.command()
def prepare(config: Path = typer.Argument(..., help="YAML configuration, see Training/configs.")) -> None:
    """Fill the cache of CONFIG, so that training begins at once (on a machine that costs more, say)."""
    from .config import read_config
    from .dataset import prepare_data
    from .phantoms import PhantomStore

    chosen = read_config(config)
    cache, options = chosen.path(chosen.data.cache), chosen.sampling.augmentation
    folders, held_out = prepare_data(chosen, typer.echo)
    if options.phantom_share:
        PhantomStore(cache / "phantoms", options.phantoms, chosen.data.window, typer.echo)
    typer.echo(f"Prepared {len(folders)} scan(s) to train on and {len(held_out)} to validate on in {cache}")


@app.command()
def data(
    collection: str = typer.Argument(..., help="lidc-idri or 4d-lung."),
    folder: Optional[Path] = typer.Argument(None, help="Where it was downloaded; without: what it needs."),  # noqa: UP045
    metadata: Optional[Path] = typer.Option(  # noqa: UP045
        None, help="The archive's metadata.csv or a manifest (.tcia); default: the one in or above FOLDER."
    ),
    cache: Path = typer.Option(Path("Training/cache"), help="data.cache of the configuration to train with."),
    retry: Optional[Path] = typer.Option(None, help="Write a manifest of what must be downloaded again."),  # noqa: UP045
    pairs: Optional[Path] = typer.Option(None, help="Write a batch table of the phases at 50 % and 0 %."),  # noqa: UP045
) -> None:
    """Say what a collection of The Cancer Imaging Archive needs, or check a download of it."""
    from . import tcia

    known = tcia.COLLECTIONS.get(collection.lower())
    if known is None:
        raise InputError(f"The collection {collection} is unknown; known: {', '.join(tcia.COLLECTIONS)}.")
    if folder is None:
        typer.echo(tcia.needs(known))
        return
    metadata = metadata or tcia.find_metadata(folder)
    expected = tcia.read_metadata(metadata) if metadata else None
    index = cache / "train" / "index"
    check = tcia.check_download(folder, expected, index, typer.echo)
    for _, problem in check.problems:
        typer.echo(problem)
    typer.echo(tcia.summary(check, cache))
    if retry and check.again:
        tcia.write_manifest(check.again, retry)
        typer.echo(f"Wrote {retry}: {len(check.again)} series to download again")
    if pairs:
        count = tcia.write_pairs(folder, pairs, index, typer.echo)
        typer.echo(f"Wrote {pairs}: {count} pair(s)")
    if check.again:
        raise typer.Exit(1)


@app.command()
def breathing(
    sequences: list[Path] = typer.Argument(..., help="Folders that progressive-registration sequence wrote."),
    output: Path = typer.Option(..., help="File (.json) for sampling.breathing_modes of a configuration."),
) -> None:
    """Learn from registered 4DCTs how lungs move, so that training samples move alike."""
    from .breathing import modes_of, write_modes

    modes = modes_of(sequences, typer.echo)
    write_modes(modes, output)
    share = 100 * modes.explained
    typer.echo(f"Wrote {output}: {len(modes.modes)} modes, {share:.0f} % of what lung boxes leave")


@app.command()
def export(
    checkpoint: Path = typer.Argument(..., help="A checkpoint of a finished run."),
    name: str = typer.Option(..., help="The model's name, as users choose it."),
    output: Path = typer.Option(Path("Resources/Models"), help="Folder for the card and the weights."),
    version: str = typer.Option("1.0", help="The model's version."),
    description: str = typer.Option("", help="A sentence for the card."),
    config: Optional[Path] = typer.Option(  # noqa: UP045
        None,
        help="Describe the training data as this configuration does.",
    ),
    default: bool = typer.Option(False, help="Make it the model that is used when none is named."),
    passes: int = typer.Option(
        1, min=1, max=4, help="How often the network looks, each time at what is left."
    ),
    mirrored: bool = typer.Option(False, help="Average its field with that of the mirrored pair."),
    symmetric: bool = typer.Option(
        False, help="Keep what it says alike with fixed and moving exchanged; a scan lies on itself exactly."
    ),
) -> None:
    """Turn a checkpoint into a model card and half-precision weights."""
    from .config import read_config
    from .export import export as write

    described = read_config(config) if config else None
    card = write(
        checkpoint,
        name,
        output,
        version,
        description,
        described,
        default,
        passes,
        mirrored,
        symmetric,
        typer.echo,
    )
    typer.echo(f"Wrote {card.path} and {card.weights}, sha256 {card.sha256}")


@app.command()
def evaluate(
    output: Path = typer.Option(Path("evaluation"), help="Folder for tables and figures."),
    model: Optional[str] = typer.Option(  # noqa: UP045
        None, help="Model name, card (.json) or checkpoint (.safetensors); default: the installed default."
    ),
    baseline: Optional[str] = typer.Option(None, help="A second model to compare with."),  # noqa: UP045
    dirlab_4dct: Optional[Path] = typer.Option(None, help="Folder with the DIR-Lab 4DCT cases."),  # noqa: UP045
    dirlab_copdgene: Optional[Path] = typer.Option(None, help="Folder with the DIR-Lab COPDgene cases."),  # noqa: UP045
    popi: Optional[Path] = typer.Option(None, help="Folder with the POPI-model."),  # noqa: UP045
    creatis: Optional[Path] = typer.Option(None, help="Folder with the CREATIS patients (MedPhys11)."),  # noqa: UP045
    pairs: Optional[Path] = typer.Option(None, help="CSV list of pairs with landmarks."),  # noqa: UP045
    phantoms: int = typer.Option(0, min=0, help="How many made-up breathing chests to test on."),
    swap: bool = typer.Option(False, help="Exchange fixed and moving."),
    lung_boxes: str = typer.Option("own", help="own or shared (the paper's)."),
    refinement: Optional[str] = typer.Option(None, help="balanced or accurate; default: the network alone."),  # noqa: UP045
    device: str = typer.Option("auto", help="auto, cpu, cuda, cuda:N or mps."),
    run: Optional[Path] = typer.Option(None, help="Folder of a run: figures 5 to 7."),  # noqa: UP045
    baseline_run: Optional[Path] = typer.Option(None, help="Folder of the baseline's run."),  # noqa: UP045
    snapshots: bool = typer.Option(False, help="Evaluate each snapshot of the runs on the test set instead."),
    held_out: Optional[Path] = typer.Option(None, help="Configuration with held-out scans to deform."),  # noqa: UP045
    held_out_samples: int = typer.Option(10, min=1, help="Deformations of each held-out scan."),
) -> None:
    """Landmark errors, folding and figures of models on test sets (Table II, figures 5 to 9)."""
    from .evaluation_job import READERS, EvaluationJob, run_job

    given = dict(zip(READERS, (dirlab_4dct, dirlab_copdgene, popi, creatis, pairs)))
    sets = {name: place for name, place in given.items() if place is not None}
    job = EvaluationJob(
        output,
        model,
        baseline,
        sets,
        phantoms,
        swap,
        lung_boxes,
        refinement,
        device,
        run,
        baseline_run,
        snapshots,
        held_out,
        held_out_samples,
    )
    for name in run_job(job, typer.echo):
        typer.echo(f"Wrote {output / name}")


@app.command()
def compare(
    study: Path = typer.Argument(..., help="YAML study, see Training/configs/study.yaml."),
    output: Path = typer.Option(Path("study"), help="Folder for the table and the curves."),
) -> None:
    """Train small variants in step on the same samples, and compare them."""
    from .compare import read_study, run_study, study_table, write_study

    variants, pool = read_study(study)
    output.mkdir(parents=True, exist_ok=True)
    result = run_study(variants, pool, typer.echo)
    write_study(result, output)
    typer.echo(study_table(result))


@app.command()
def series(
    study: Path = typer.Argument(..., help="YAML series, see Training/configs/series-64.yaml."),
    output: Path = typer.Option(Path("Training/runs/series"), help="Folder for runs and table."),
    minutes: float = typer.Option(math.inf, min=0.1, help="Train for so long; the same command goes on."),
    measure: bool = typer.Option(False, help="Only measure the runs as far as they are."),
    only: list[str] = typer.Option([], help="A variant or run to train; may be given again. The rest waits."),
) -> None:
    """Train whole runs in turn, in as many sittings as it takes, and compare them."""
    from .series import measure_series, read_series, run_series, series_table

    chosen = read_series(study)
    output.mkdir(parents=True, exist_ok=True)
    if not measure and not run_series(chosen, output, minutes, typer.echo, only):
        typer.echo("Not all runs are at their end: the same command goes on.")
        return
    typer.echo(series_table(measure_series(chosen, output, typer.echo)))


def main(arguments: Optional[list[str]] = None) -> None:  # noqa: UP045
    """Entry point: a first argument that is no command is a configuration to train."""
    if arguments is None:  # called by the console script: the process is ours
        keep_freed_memory()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}
    if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
        arguments.insert(0, "train")
    try:
        app(arguments, standalone_mode=True)
    except ProgressiveRegistrationError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
