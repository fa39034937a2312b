"""Ties the page's state to the workplace, the views and the work beside them; all on the main thread."""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path

from ProgressiveRegistrationLib.errors import InputError, ProgressiveRegistrationError
from ProgressiveRegistrationLib.landmarks import read_landmarks
from ProgressiveRegistrationLib.memory import trim
from ProgressiveRegistrationLib.statistics import STATISTICS, statistics
from ProgressiveRegistrationSlicer import options, sample_data
from ProgressiveRegistrationSlicer.choices import FusionMode
from ProgressiveRegistrationSlicer.measuring import folding_text
from ProgressiveRegistrationSlicer.trust import trust_text, worst_place
from ProgressiveRegistrationSlicer.work import Work, remaining_text

from . import page_state
from .colour_bar import colour_bar, error_bar
from .data_folder import DataFolder, Entry
from .listing import Listing
from .reading import image_of
from .uploads import Uploads
from .views import LETTER, SLICES, WINDOWS, Views
from .workplace import SIDES, Workplace, name_of

POLL_SECONDS = 0.05
LIVE_SECONDS = 0.08  # changes closer together than this (a dragged landmark) are measured once
PUBLIC = [
    "browse",
    "browse_to",
    "pick",
    "remove_input",
    "load_example",
    "register_or_cancel",
    "undo",
    "fit",
    "slide",
    "choose_landmark",
    "move_landmark",
    "delete_landmark",
    "least_sure",
]


class App:
    """The page's brain. ``views`` may be made only after trame-slicer's factories are registered."""

    def __init__(
        self, server, slicer_app, templates: dict[str, str], *, data: DataFolder | None, uploads: Uploads
    ) -> None:
        self.server, self.state = server, server.state
        self.slicer_app = slicer_app  # its logics own nodes, colours among them
        self.data, self.uploads = data, uploads
        self.workplace = Workplace(changed=self.landmarks_changed)
        self.views = Views(slicer_app, self._picked, self._slice_moved, lambda: self.workplace.registration)
        self._work: Work | None = None
        self._due: asyncio.Task | None = None
        self._tasks: set = set()
        self._reading = asyncio.Lock()  # one file after the other
        self.listing = Listing(self.state, data, self._chosen)
        self.state.update(page_state.initial(templates, has_data=data is not None))
        self.state.client_only(*page_state.OF_A_TAB)
        for name in PUBLIC:
            server.controller.trigger(name)(getattr(self, name))
        server.state.change("mode")(lambda **_: self.show())
        server.state.change("opacity")(lambda **_: self._set_opacity())
        server.state.change("window")(lambda **_: self._set_window())
        server.state.change("tool")(lambda **_: self._set_tool())
        server.state.change("inputs", "loading")(lambda **_: self._set_obstacle())

    def begin(self, example: bool) -> None:
        """When the server runs: fill what takes time."""
        self._start(self._fill_options())
        if example:
            self.load_example()

    def close(self) -> None:
        """The server stops: whatever runs shall stop too."""
        self.views.fusion.stop_timer()
        if self._work is not None:
            self._work.cancel()

    def _start(self, coroutine) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fill_options(self) -> None:
        await asyncio.to_thread(options.load_torch)
        with self.state as state:
            state.devices = [{"value": v, "title": t} for v, t, _tip in options.device_entries()]
            state.models = [{"value": v, "title": t} for v, t, _tip in options.model_entries()]
        gc.collect()
        gc.freeze()  # what was loaded by now stays: looking through it each time takes 0.2 s

    # ---- messages

    def say(self, text: str, kind: str = "info") -> None:
        self.state.update({"message": text, "message_kind": kind})

    def fail(self, error: BaseException) -> None:
        """Show an error; log one that is not the user's."""
        if not isinstance(error, ProgressiveRegistrationError):
            logging.error("The page's server failed", exc_info=error)
        self.say(str(error) or type(error).__name__, "error")

    # ---- inputs

    def browse(self, role: str) -> None:
        if role in page_state.ROLES and self.data is not None:
            self.listing.open(role, f"Choose the {page_state.ROLES[role]}")

    def browse_to(self, path: str) -> None:
        self.listing.go(str(path))

    def pick(self, path: str, series: str) -> None:
        self.listing.pick(path, series)

    def _chosen(self, role: str, entry: Entry) -> None:
        self._start(
            self.load(role, self.data.resolve(entry.path), self.data.root, entry.series or None, entry.name)
        )

    async def load(self, role: str, path: Path, root: Path, series: str | None, shown: str) -> None:
        """Read a file beside the page and put it into the scene; after the one that is being read."""
        async with self._reading:
            await self._load(role, path, root, series, shown)

    def _is_free(self) -> bool:
        """May the pair be changed? Says why not: a drop, or another tab, does not ask first."""
        if self._work is not None:
            with self.state:
                self.say("Cancel what is running, or wait for it, before you change its images.", "error")
        return self._work is None

    async def _load(self, role: str, path: Path, root: Path, series: str | None, shown: str) -> None:
        if not self._is_free():
            return
        side, _, kind = role.partition("_")
        with self.state as state:
            state.loading = f"Reading {shown}"
            state.message = ""
        try:
            if kind == "landmarks":
                landmarks = await asyncio.to_thread(read_landmarks, path, self.workplace.grids[side])
                with self.state:
                    self.workplace.put_points(side, landmarks, name_of(path))
                    self._input(role, shown, f"{len(landmarks)} points")
                    self.views.fit_3d()
            else:
                image = await asyncio.to_thread(image_of, path, root, series, mask=kind == "mask")
                size, spacing = image.GetSize(), (f"{s:.2f}" for s in image.GetSpacing())
                detail = f"{' × '.join(map(str, size))}, {' × '.join(spacing)} mm"
                with self.state as state:
                    if kind == "mask":
                        self.workplace.put_mask(side, image, shown)
                        state.show_masks = True
                    else:
                        self.workplace.put_volume(side, image, shown)
                        self._nothing_registered()
                        self.show()
                        self.fit()
                    self._input(role, shown, detail)
                del image
        except Exception as error:
            with self.state:
                self.fail(error)
        finally:
            with self.state as state:
                state.loading = ""
            self._tidy()

    def _input(self, role: str, name: str, detail: str) -> None:
        self.state.inputs = {**self.state.inputs, role: {"name": name, "detail": detail}}

    def remove_input(self, role: str) -> None:
        if role not in page_state.ROLES or not self._is_free():
            return
        side, _, kind = role.partition("_")
        self.workplace.remove(side, {"": "volume", "landmarks": "points", "mask": "mask"}[kind])
        self.state.inputs = {**self.state.inputs, role: None}
        if not kind:
            self._nothing_registered()
        self.show()

    def load_example(self) -> None:
        """The breathing thorax, made here."""
        self._start(self._load_example())

    async def _load_example(self) -> None:
        async with self._reading:
            if self._is_free():
                await self._make_example()

    async def _make_example(self) -> None:
        with self.state as state:
            state.loading, state.message = "Making a breathing thorax", ""
        try:
            pair = await asyncio.to_thread(sample_data.make)
            with self.state:
                self.workplace.put_example(pair)
                self._nothing_registered()
                size = " × ".join(map(str, pair.fixed.GetSize()))
                self.state.inputs = dict.fromkeys(page_state.ROLES)
                for side, name in (("fixed", "Thorax exhale"), ("moving", "Thorax inhale")):
                    self._input(side, name, f"{size}, made up")
                    self._input(
                        f"{side}_landmarks", f"{name} landmarks", f"{len(pair.fixed_landmarks)} points, exact"
                    )
                self.show()
                self.fit()
        except Exception as error:
            with self.state:
                self.fail(error)
        finally:
            with self.state as state:
                state.loading = ""
            self._tidy()

    def _tidy(self) -> None:
        """Give back what a volume or a registration took on its way."""
        gc.collect()
        self._start(asyncio.to_thread(trim))

    def _set_obstacle(self) -> None:
        volumes = self.workplace.volumes
        missing = [side for side in SIDES if volumes[side] is None]
        self.state.obstacle = f"Choose the {' and the '.join(missing)} image." if missing else ""

    # ---- registering

    def register_or_cancel(self) -> None:
        """Start, or stop what is running: the page and the scene are as before at once."""
        if self._work is not None:
            self._work.cancel()
            return
        if self.state.loading:
            return  # the button is off, but another tab may be late
        try:
            session = self.workplace.session(
                preset=str(self.state.preset),
                model=str(self.state.model),
                device=str(self.state.device),
                lung_boxes=str(self.state.lung_boxes),
            )
        except Exception as error:
            self.fail(error)
            return
        self._begin(session.compute, lambda computed: self._finish(session, computed))

    def _begin(self, compute: Callable, finish: Callable, instead: Callable = lambda: None) -> None:
        """Compute beside the page; then ``finish(computed)``, or ``instead()`` when nothing came of it."""
        self.state.update({"busy": True, "progress": 0, "stage": "Starting", "message": ""})
        self._work = Work(compute)
        self._start(self._run(self._work, self._ending, finish, instead))

    _ending: Work | None = None  # a cancelled one whose thread has not heard it yet

    async def _run(self, work: Work, before: Work | None, finish: Callable, instead: Callable) -> None:
        began = time.monotonic()
        if before is not None:
            with self.state as state:
                state.stage = "Waiting for what was cancelled to stop"
            while before.outcome is None and not work.stopping:
                await asyncio.sleep(POLL_SECONDS)
        if not work.stopping:
            work.start()
        while not work.stopping and work.outcome is None:
            await asyncio.sleep(POLL_SECONDS)
            latest = work.poll()
            if latest is not None:
                self._show_progress(*latest, began)
        self._work = None
        with self.state as state:
            state.busy = False
            if work.stopping or work.outcome[0] == "cancelled":
                instead()
                self.say("Cancelled; the scene is as it was.")
            elif work.outcome[0] == "failed":
                instead()
                self.fail(work.outcome[1])
            else:
                finish(work.outcome[1])
        if work.stopping and work.started:
            self._ending = work
            while work.outcome is None:  # its thread ends a little later, without another word
                await asyncio.sleep(POLL_SECONDS)
                work.poll()
            if self._ending is work:
                self._ending = None

    def _show_progress(self, _stage: str, fraction: float, text: str, began: float) -> None:
        left = remaining_text(fraction, time.monotonic() - began)
        with self.state as state:
            state.progress = round(100 * fraction)
            state.stage = f"{text[:1].upper()}{text[1:]}" + (f", {left}" if left else "")

    def _finish(self, session, computed: dict) -> None:
        try:
            result = self.workplace.finish(session, computed)
        except Exception as error:
            self.fail(error)
            return
        registration = result.registration
        self.state.update(
            {
                "registered": True,
                "report_version": self.state.report_version + 1,
                "folding": folding_text(result.figures).split("<br>"),
                "trust": "",
            }
        )
        seconds = registration.seconds.get("total", 0.0)
        made = f"Registered in {seconds:.1f} s on {registration.device}."
        self.say(" ".join([made, *result.notes]), "success" if not result.notes else "info")
        self.show()
        self.views.fit_3d()
        self.measure()
        self._tidy()

    def undo(self) -> None:
        """Take the result back out of the scene."""
        if self._work is None:
            self.workplace.forget_result()
            self._nothing_registered()
            self.show()

    def _nothing_registered(self) -> None:
        self.state.update({"registered": self.workplace.result is not None, "folding": [], "trust": ""})
        self.measure()

    # ---- views

    def show(self) -> None:
        """Show the pair as the page's choices say."""
        fixed, moving = (self.workplace.volumes[side] for side in SIDES)
        mode = (
            FusionMode(self.state.mode)
            if self.state.mode in {m.value for m in FusionMode}
            else FusionMode.OVERLAY
        )
        self.state.uses_opacity = mode.lies_over_fixed
        if mode is FusionMode.JACOBIAN and self.workplace.result is None:
            self.say("There is no volume change to show yet: register first.")
        if mode is FusionMode.UNCERTAINTY and not self._judged():
            mode = FusionMode.OVERLAY  # until it is known
        self.state.update(colour_bar(mode))
        fusion = self.views.fusion
        if fixed is None or moving is None:
            fusion.restore()
            self.views.show_alone(fixed or moving)
            return
        fusion.show(mode, fixed, moving, self._opacity())
        self.views.render_slices()

    def _judged(self) -> bool:
        """Is the expected error of the result known? Begins to estimate it where it is not."""
        self.views.fusion.trust = self.workplace.trust
        if self.views.fusion.trust is not None:
            return True
        if self.workplace.result is None:
            self.say("There is no expected error to show yet: register first.")
        elif self._work is None:
            compute, keep = self.workplace.judge()

            def show(found):
                keep(found)
                self._tidy()
                self.state.trust = trust_text(found)
                self.state.report_version += 1
                self.show()

            def instead():
                self.state.mode = FusionMode.OVERLAY.value

            self._begin(compute, show, instead)
        return False

    def least_sure(self) -> None:
        """All views to where the largest error is to be expected."""
        if self.workplace.trust is not None:
            self.views.jump(worst_place(self.workplace.trust))

    def _opacity(self) -> float:
        return min(1.0, max(0.0, float(self.state.opacity)))

    def _set_opacity(self) -> None:
        self.views.fusion.set_opacity(self._opacity())

    def _set_window(self) -> None:
        if self.state.window in WINDOWS:
            self.views.set_window(*WINDOWS[self.state.window])

    def _set_tool(self) -> None:
        moving = self.state.tool == "move"
        self.views.picking = not moving
        self.workplace.lock_points(not moving)

    def fit(self) -> None:
        self.views.fit()
        for name in SLICES:
            self._slice_moved(name)

    def slide(self, name: str, value: float) -> None:
        if name in SLICES and isinstance(value, (int, float)):
            self.views.set_offset(name, value)

    def _slice_moved(self, name: str) -> None:
        value, first, last, step = self.views.offset(name)
        text = f"{LETTER[name]} {self.views.position(name):.1f} mm"
        offset = {
            "value": round(value, 3),
            "first": round(first, 3),
            "last": round(last, 3),
            "step": step,
            "text": text,
        }
        if self.state.offsets[name] != offset:
            with self.state as state:
                state.offsets = {**state.offsets, name: offset}

    def _picked(self, ras, pressed: bool) -> None:
        """The user clicked (or, not ``pressed``, dragged) in a slice view."""
        self.views.jump(ras)
        if not pressed or self.state.tool not in SIDES:
            return
        with self.state as state:
            try:
                state.landmark = self.workplace.add_point(state.tool, ras)
                self.workplace.lock_points(True)
            except ProgressiveRegistrationError as error:
                self.fail(error)

    # ---- landmarks

    def landmarks_changed(self) -> None:
        """Measure soon; called for every step of a drag."""
        if self._due is None or self._due.done():
            self._due = asyncio.get_event_loop().create_task(self._measure_soon())

    async def _measure_soon(self) -> None:
        await asyncio.sleep(LIVE_SECONDS)
        with self.state:
            self.measure()

    def measure(self) -> None:
        """The landmarks' errors now: table, figures, histogram, vectors."""
        state, workplace = self.state, self.workplace
        errors, why = workplace.errors()
        registered = workplace.result is not None
        state.update(error_bar(workplace.show_vectors(errors)))
        state.landmark_hint = why
        if errors is None:
            state.update({"tre": [], "rows": [], "paired": "", "histogram": "", "landmark": ""})
            return
        rows = [("Before", errors.before)] + ([("After", errors.after)] if registered else [])
        tre = []
        for when, values in rows:
            figures = statistics(values)
            tre.append({"when": when, "values": [f"{figures[k]:.2f}" for k in STATISTICS]})
        order = errors.worst_first()
        table = [
            {
                "label": errors.labels[n],
                "before": f"{errors.before[n]:.2f}",
                "after": f"{errors.after[n]:.2f}" if registered else "",
                "better": bool(errors.after[n] <= errors.before[n]),
            }
            for n in order
        ]
        if state.landmark not in workplace.labels():
            state.landmark = ""
        state.update({"tre": tre, "rows": table, "paired": errors.how})
        state.histogram = _histogram(errors) if registered else ""
        if registered:
            state.report_version += 1

    def choose_landmark(self, label: str) -> None:
        """All views to a landmark."""
        try:
            self.views.jump(self.workplace.shown_at("fixed", str(label)))
            self.state.landmark = str(label)
        except ProgressiveRegistrationError as error:
            self.fail(error)

    def move_landmark(self, side: str) -> None:
        """The chosen landmark of a side to the crosshair."""
        if side in SIDES and self.state.landmark:
            try:
                self.workplace.move_point(side, self.state.landmark, self.views.at())
            except ProgressiveRegistrationError as error:
                self.fail(error)

    def delete_landmark(self) -> None:
        if self.state.landmark:
            self.workplace.remove_point(self.state.landmark)
            self.state.landmark = ""

    # ---- what comes through the server's other doors

    async def receive(self, drop: str, role: str) -> None:
        """Read what was uploaded for a role."""
        if role not in page_state.ROLES:
            raise InputError(f"There is no input {role!r}.")
        path = self.uploads.main_file(drop)
        shown = path.name if path.is_file() else f"{sum(1 for _ in path.iterdir())} files"
        await self.load(role, path, self.uploads.place(drop), None, shown)
        self.uploads.discard(drop)


def _histogram(errors) -> str:
    """The report's histogram as a ``data:`` address: as an image, nothing in it can act."""
    from ProgressiveRegistrationLib.report.charts import histogram_svg
    from ProgressiveRegistrationLib.report.pictures import FIXED_COLOUR

    svg = histogram_svg(errors.before, errors.after, FIXED_COLOUR)
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
