"""``progressive-registration-train``: train, evaluate, export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional

import typer
from ProgressiveRegistrationLib.errors import ProgressiveRegistrationError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@app.callback()
def _root() -> None:
    """Train the progressive network, judge it, and export it."""


@app.command()
def train(
    config: Path = typer.Argument(..., help="YAML configuration, see Training/configs."),
    resume: bool = typer.Option(False, help="Continue the run's latest checkpoint."),
    start_from: Optional[Path] = typer.Option(None, help="Begin with another run's checkpoint."),  # noqa: UP045
    until: Optional[int] = typer.Option(None, help="Stop (with a checkpoint) at this iteration."),  # noqa: UP045
) -> None:
    """Train as CONFIG says (the default command)."""
    from .config import read_config
    from .trainer import Trainer

    trainer = Trainer(read_config(config), progress=sys.stderr.isatty())
    reached = trainer.run(resume=resume, start_from=start_from, until=until)
    trainer.report(f"Trained to iteration {reached}: {trainer.config.run_folder}")


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
) -> None:
    """Turn a checkpoint into a model card and half-precision weights."""
    from .config import read_config
    from .export import export as write

    described = read_config(config) if config else None
    card = write(checkpoint, name, output, version, description, described, default)
    typer.echo(f"Wrote {card.path} and {card.weights}, sha256 {card.sha256}")


def main(arguments: Optional[list[str]] = None) -> None:  # noqa: UP045
    """Entry point: a first argument that is no command is a configuration to train."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands = {c.name or c.callback.__name__ for c in app.registered_commands}
    if arguments and arguments[0] not in commands and not arguments[0].startswith("-"):
        arguments.insert(0, "train")
    try:
        app(arguments, standalone_mode=True)
    except ProgressiveRegistrationError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
