"""What the browser fetches beside trame's own: the page's frame, downloads, the report, uploads."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from pathlib import Path

from aiohttp import web
from ProgressiveRegistrationLib import formats
from ProgressiveRegistrationLib.errors import InputError, ProgressiveRegistrationError
from ProgressiveRegistrationLib.images import write_image
from ProgressiveRegistrationLib.landmarks import write_landmarks
from ProgressiveRegistrationLib.memory import trim
from trame_client.module import vue3 as client_module

from .app import App
from .page_state import Download

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'self'"
)


class Routes:
    """Handlers over the app; results are made when asked for, in ``folder``, one at a time."""

    def __init__(self, app: App, folder: Path) -> None:
        self._app, self._folder = app, folder
        self._making = asyncio.Lock()
        self._tabs = 0

    def add_to(self, web_app: web.Application) -> None:
        web_app.middlewares.append(self._counting)
        web_app.router.add_get("/index.html", self.index)
        web_app.router.add_get("/alive", self.alive)
        web_app.router.add_get("/download/{name}", self.download)
        web_app.router.add_get(f"/report/{{version}}/{formats.REPORT_PAGE}", self.report)
        web_app.router.add_post("/upload/begin", self.upload_begin)
        web_app.router.add_post("/upload/file", self.upload_file)
        web_app.router.add_post("/upload/done", self.upload_done)
        web_app.router.add_post("/upload/failed", self.upload_failed)

    @property
    def _counting(self):
        """A middleware that knows how many tabs are open: each has one websocket."""

        @web.middleware
        async def count(request: web.Request, handler):
            if request.path != "/ws":
                return await handler(request)
            if not web.WebSocketResponse().can_prepare(request):
                return web.Response(status=400, text="This is the page's websocket.")
            self._change_tabs(1)
            try:
                return await handler(request)
            finally:
                self._change_tabs(-1)

        return count

    def _change_tabs(self, by: int) -> None:
        self._tabs += by
        with self._app.state as state:
            state.tabs = max(1, self._tabs)

    async def index(self, _request: web.Request) -> web.Response:
        """trame's frame of the page, which may be zoomed (its own forbids it)."""
        text = (Path(client_module.www) / "index.html").read_text(encoding="utf-8")
        text = re.sub(r"\s*,maximum-scale=1,minimum-scale=1", "", text)
        text = text.replace("trame is built by Kitware", "Progressive Registration")
        return web.Response(text=text, content_type="text/html")

    async def alive(self, _request: web.Request) -> web.Response:
        return web.Response(text="yes")

    # ---- results

    async def download(self, request: web.Request) -> web.StreamResponse:
        makers = {
            Download.TRANSFORM: self._transform,
            Download.WARPED: self._warped,
            Download.REPORT: self._report,
            Download.ERRORS: self._errors,
            Download.FIXED_POINTS: self._points,
            Download.MOVING_POINTS: self._points,
        }
        name = request.match_info["name"]
        if name not in makers:
            raise web.HTTPNotFound
        try:
            async with self._making:
                path = await makers[name](self._folder / name)
        except ProgressiveRegistrationError as error:
            return web.Response(status=409, text=str(error))
        return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    async def report(self, _request: web.Request) -> web.StreamResponse:
        try:
            async with self._making:
                path = await self._report(self._folder / formats.REPORT_PAGE)
        except ProgressiveRegistrationError as error:
            return web.Response(status=409, text=str(error))
        return web.FileResponse(path, headers={"Content-Security-Policy": REPORT_POLICY})

    def _result(self):
        result = self._app.workplace.result
        if result is None:
            raise InputError("Register first: there is no result yet.")
        return result

    async def _transform(self, path: Path) -> Path:
        await asyncio.to_thread(self._result().registration.field.write, path)
        return path

    async def _warped(self, path: Path) -> Path:
        result, moving = self._result(), self._app.workplace.moving_image()
        grid = self._app.workplace.grids["fixed"]

        def make():
            write_image(result.registration.field.warp_image(moving(), grid), path)

        await asyncio.to_thread(make)
        return path

    async def _report(self, path: Path) -> Path:
        measurement = self._app.workplace.measurement()
        await asyncio.to_thread(trim)
        await asyncio.to_thread(measurement.compute, path.parent)
        await asyncio.to_thread(trim)
        return path

    async def _errors(self, path: Path) -> Path:
        errors, why = self._app.workplace.errors()
        if errors is None:
            raise InputError(why or "Choose fixed and moving landmarks first.")
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["label", "x_lps", "y_lps", "z_lps", "before_mm", "after_mm"])
        for n in errors.worst_first():
            table.writerow(
                [
                    _cell(errors.labels[n]),
                    *errors.fixed[n].round(4),
                    errors.before[n].round(4),
                    errors.after[n].round(4),
                ]
            )
        path.write_text(text.getvalue(), encoding="utf-8")
        return path

    async def _points(self, path: Path) -> Path:
        side = path.name.split("_")[0]
        write_landmarks(self._app.workplace.landmarks(side), path)
        return path

    # ---- uploads

    async def upload_begin(self, _request: web.Request) -> web.Response:
        return self._answer(self._app.uploads.begin)

    async def upload_file(self, request: web.Request) -> web.Response:
        chunks = request.content.iter_chunked(1 << 20)
        try:
            await self._app.uploads.receive(
                request.query.get("drop", ""), request.query.get("name", ""), chunks
            )
        except ProgressiveRegistrationError as error:
            self._app.uploads.discard(request.query.get("drop", ""))
            return web.Response(status=413 if "too large" in str(error) else 400, text=str(error))
        return web.Response(text="")

    async def upload_done(self, request: web.Request) -> web.Response:
        try:
            await self._app.receive(request.query.get("drop", ""), request.query.get("role", ""))
        except ProgressiveRegistrationError as error:
            return web.Response(status=400, text=str(error))
        return web.Response(text="")

    async def upload_failed(self, request: web.Request) -> web.Response:
        """The browser tells what went wrong on the way; the page shows it."""
        text = (await request.content.read(2000)).decode(errors="replace")
        self._app.uploads.discard(request.query.get("drop", ""))
        with self._app.state:
            self._app.say(text or "The upload failed.", "error")
        return web.Response(text="")

    @staticmethod
    def _answer(make) -> web.Response:
        try:
            return web.Response(text=make())
        except ProgressiveRegistrationError as error:
            return web.Response(status=400, text=str(error))

    def clean(self) -> None:
        """Forget what was uploaded."""
        self._app.uploads.clean()


def _cell(text: str) -> str:
    """A label that a spreadsheet will not take for a formula."""
    return f"'{text}" if text[:1] in "=+-@\t\r" else text
