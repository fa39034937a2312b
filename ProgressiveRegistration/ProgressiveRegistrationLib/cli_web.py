"""The command ``web``: the page in a browser. ``cli`` adds it to its own."""

# Typer reads annotations at run time, also on Python 3.9.
# ruff: noqa: UP045
from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, Optional

import typer

from .errors import InputError
from .memory import give_back_freed_memory


def add_commands(app: typer.Typer, cli: Any, epilog: str) -> None:
    """Add this file's command to ``app``; ``cli`` is the module with its helpers."""

    @app.command(epilog=epilog)
    @cli.guarded
    def web(
        host: str = typer.Option("127.0.0.1", help="Address to listen on; any but loopback needs --token."),
        port: int = typer.Option(8080, help="Port to listen on; 0: any that is free."),
        data: Optional[Path] = typer.Option(None, help="Folder that the page may read images from."),
        output: Optional[Path] = typer.Option(
            None,
            "--output",
            "-o",
            help="Folder for what is made to download; without it, one that goes at the end.",
        ),
        token: Optional[str] = typer.Option(
            None,
            envvar="PROGRESSIVE_REGISTRATION_TOKEN",
            help="What a user must know to come in; the variable, unlike the option, is not seen by others.",
            show_envvar=True,
        ),
        example: bool = typer.Option(False, "--example", help="Begin with the breathing thorax."),
        open_browser: bool = typer.Option(False, "--open", help="Open the page in this computer's browser."),
        max_upload: int = typer.Option(4000, help="MB that the browser may send, all files together."),
    ) -> None:
        """Serve the interactive page: choose, register, look and measure in a browser. One user a server."""
        try:
            # By name: the engine knows no page, and the page may not be installed.
            serving = importlib.import_module("ProgressiveRegistrationWeb.serving")
        except ImportError as error:
            raise InputError(
                f"The page needs packages that are not installed ({error.name}); install them: "
                "pip install 'progressive-registration[web]' (Python 3.10 to 3.13)."
            ) from error
        give_back_freed_memory()  # the server goes on when a registration is done
        options = serving.Options(host, port, data, output, token, example, open_browser, max_upload)
        serving.serve(options, lambda text: print(text, flush=True))
        sys.stderr.flush()
        os._exit(0)  # its threads may be in the middle of a computation that nobody waits for any more
