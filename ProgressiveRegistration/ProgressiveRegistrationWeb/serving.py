"""``progressive-registration web``: the server, from its options to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ProgressiveRegistrationLib.errors import InputError, OutputError

from .security import Guard, check_address

MEGABYTE = 1_000_000
UPLOADS = ".progressive-registration-uploads"  # in the output folder; nobody else's, for it is deleted
STOP_SECONDS = 3.0


@dataclass(frozen=True)
class Options:
    """``data`` None: files come from the browser alone; ``output`` None: a folder that goes at the end."""

    host: str = "127.0.0.1"
    port: int = 8080
    data: Path | None = None
    output: Path | None = None
    token: str | None = None
    example: bool = False
    open_browser: bool = False
    max_upload_mb: int = 4000


def serve(options: Options, tell=print) -> None:
    """Serve the page until the process is told to stop.

    Raises
    ------
    InputError : an address that needs a token, no such data folder, a port in use.
    OutputError : the output folder cannot be made.
    """
    check_address(options.host, options.token)
    if not 0 <= options.port <= 65535:
        raise InputError(f"There is no port {options.port}; give one up to 65535, or 0 for any that is free.")
    with tempfile.TemporaryDirectory(prefix="progressive-registration-") as temporary:
        folder = options.output or Path(temporary)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error.strerror or error}.") from error
        _serve(options, folder.resolve(), tell)


def _serve(options: Options, folder: Path, tell) -> None:
    from .data_folder import DataFolder

    data = DataFolder(options.data) if options.data is not None else None
    # trame reads the command line by itself; it shall see nothing of ours.
    os.environ["TRAME_ARGS"] = "--server"
    os.environ.setdefault("MPLBACKEND", "agg")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)  # trame's views make tasks while they are built
    server, routes, app = build(data, folder, options.max_upload_mb * MEGABYTE)
    guard = Guard(options.token)

    @server.controller.add("on_server_bind")
    def bound(wslink_server):
        wslink_server.app.middlewares.append(guard.middleware)
        routes.add_to(wslink_server.app)

    @server.controller.add("on_server_ready")
    def ready(**_):
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{server.port}/"
        if options.token is not None:
            tell(f"Open {address} and give the token. One user a server: start another one for another user.")
        else:
            tell(f"Open {address}  One user a server: start another one for another user. Ctrl-C stops it.")
        app.begin(options.example)
        if options.open_browser:
            webbrowser.open(address + (f"?token={quote(options.token)}" if options.token else ""))

    try:
        # Not asyncio.run: it would wait for threads that nobody waits for any more.
        loop.run_until_complete(_run(server, app, options, tell))
    except OSError as error:
        raise InputError(
            f"The server cannot listen on {options.host}, port {options.port}: {error.strerror or error}; "
            "give another --port."
        ) from error
    finally:
        routes.clean()


async def _run(server, app, options: Options, tell) -> None:
    """Serve until SIGINT or SIGTERM; a running registration is cancelled then."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(_report)

    def stop(number: signal.Signals) -> None:
        tell(f"Stopping: {number.name} was sent to the server.")
        told.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    serving = loop.create_task(
        server.start(
            host=options.host,
            port=options.port,
            timeout=0,  # else it ends, and the work with it, when no tab was open for five minutes
            exec_mode="coroutine",
            thread=True,  # the signals are ours
            show_connection_info=False,
            open_browser=False,
            disable_logging=True,
        )
    )
    stopping = loop.create_task(told.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        stopping.cancel()
        serving.result()
        tell("The server was closed.")
        return
    app.close()
    try:
        await asyncio.wait_for(server.stop(), STOP_SECONDS)
    except (asyncio.TimeoutError, RuntimeError):
        pass  # a browser that does not let go
    serving.cancel()


def _report(loop, context: dict) -> None:
    """Log what a task left behind, but not that a browser's tab was closed while it was written to."""
    if not isinstance(context.get("exception"), ConnectionResetError):
        loop.default_exception_handler(context)


def build(data, folder: Path, upload_limit: int):
    """(trame server, routes, app) on a new MRML scene."""
    import slicer
    import vtk
    from trame.app import get_server
    from trame_rca import module as rca
    from trame_slicer import module as trame_slicer
    from trame_slicer.core import SlicerApp
    from trame_slicer.rca_view import register_rca_factories
    from trame_vuetify.module import v3

    from . import page_state

    server = get_server("progressive-registration", client_type="vue3")
    for module in (trame_slicer, rca, v3, page_state.MODULE):
        server.enable_module(module)
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_ERROR)
    vtk.vtkObject.GlobalWarningDisplayOff()  # each view would tell that there is no screen
    slicer_app = SlicerApp()
    slicer.mrmlScene = slicer_app.scene  # where slicer.util looks
    register_rca_factories(
        slicer_app.view_manager,
        server,
        slice_view_ui_f=_nothing,
        three_d_view_ui_f=_nothing,
        interactive_quality=75,
    )
    from .app import App
    from .routes import Routes
    from .uploads import Uploads
    from .views import DEFINITIONS

    templates = {name: definition.singleton_tag for name, definition in DEFINITIONS.items()}
    app = App(server, slicer_app, templates, data=data, uploads=Uploads(folder / UPLOADS, upload_limit))
    return server, Routes(app, folder), app


def _nothing(*_) -> None:
    """The page has its own sliders and buttons beside the views."""
