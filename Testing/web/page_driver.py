"""What a user does on the page, in words."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import axe_playwright_python
import numpy as np
from PIL import Image
from playwright.sync_api import Page, TimeoutError, expect

LONG = 400_000  # ms, for what computes; nothing depends on how long it takes
SOON = 30_000  # for what only has to be drawn

OTHERS = {"axial": ("coronal", "sagittal"), "coronal": ("axial", "sagittal")}
expect.set_options(timeout=SOON)


class Driver:
    """One tab; ``problems`` collects what the browser complained about.

    With ``server`` it is closed when that process ends, so that nobody waits for a dead server's answer.
    """

    def __init__(
        self, browser, url: str, width: int = 1280, height: int = 800, *, server=None, **context
    ) -> None:
        self._server = server
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, accept_downloads=True, **context
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(SOON)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "dialog", lambda dialog: (self.problems.append("a dialog: " + dialog.message), dialog.dismiss())
        )
        self.page.on("websocket", lambda socket: socket.on("close", lambda _: self._left_alone()))
        self.page.goto(url)
        expect(self.page.get_by_role("heading", name="Progressive Registration")).to_be_visible(timeout=LONG)

    def _left_alone(self) -> None:
        """A websocket was closed: by a reload, or by the server's end."""
        if self._server is not None and self._server.ended(0.5):
            self.context.close()

    def close(self) -> None:
        self.context.close()

    def load_example(self) -> None:
        self.page.locator("#example").click()
        self.expect_input("fixed", "Thorax exhale")
        expect(self.page.locator("#landmarks tbody tr")).to_have_count(40, timeout=LONG)

    def expect_input(self, role: str, text: str) -> None:
        expect(self.page.locator(f"#input-{role}")).to_contain_text(text, timeout=LONG)

    def choose(self, select: str, option: str) -> None:
        """An entry of a select by its label's and its own text."""
        entry = self.page.get_by_role("option", name=option)
        for _attempt in range(3):  # a menu does not open while a dialog is fading out
            self.page.get_by_role("combobox", name=select).first.click(force=True)
            try:
                entry.click(timeout=SOON / 3)
                return
            except TimeoutError:
                self.page.keyboard.press("Escape")
        entry.click()

    def register(self) -> None:
        button = self.page.locator("#register")
        expect(button).to_be_enabled(timeout=LONG)
        button.click()
        expect(button).to_have_text("Cancel")

    def is_busy(self) -> bool:
        """Does the button say Cancel? (The page shows it in capitals.)"""
        return self.page.locator("#register").inner_text().lower() == "cancel"

    def drop(self, role: str, paths) -> None:
        """Drop files on an input's line, as from a file manager."""
        files = [(Path(p).name, base64.b64encode(Path(p).read_bytes()).decode()) for p in paths]
        transfer = self.page.evaluate_handle(
            """files => {
                const transfer = new DataTransfer();
                for (const [name, text] of files) {
                    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
                    transfer.items.add(new File([bytes], name));
                }
                return transfer;
            }""",
            files,
        )
        target = self.page.locator(f"[data-role={role}]")
        for kind in ("dragover", "drop"):
            target.dispatch_event(kind, {"dataTransfer": transfer})

    def wait_registered(self) -> str:
        """The message at the end."""
        expect(self.page.locator("#register")).to_have_text("Register", timeout=LONG)
        return self.message()

    def expect_message(self, text: str) -> None:
        """The message comes to hold this text."""
        expect(self.page.locator("#message")).to_contain_text(text, timeout=LONG)

    def message(self) -> str:
        found = self.page.locator("#message")
        expect(found).to_be_visible(timeout=LONG)
        return found.inner_text()

    def tre(self, when: str = "After") -> float:
        """The mean that the page shows."""
        row = self.page.locator("#tre tbody tr", has_text=when)
        return float(row.locator("td").first.inner_text())

    def landmark(self, label: str) -> tuple[float, float]:
        """(before, after) of a row."""
        row = self.page.locator("#landmarks tbody tr", has_text=label).first
        cells = row.locator("td").all_inner_texts()
        return float(cells[0]), float(cells[1] or "nan")

    def position(self, view: str) -> float:
        """Where a view's slice is, mm, as its legend says."""
        return float(self.page.locator(f".view-{view.lower()} .position").inner_text().split()[1])

    def answer(self, view: str, steps: int) -> float:
        """Move a view's slider and wait until the server moved the slice: seconds, by the page's clock."""
        return self.page.evaluate(
            """([view, steps]) => new Promise((resolve) => {
                const slider = document.querySelector(`.view-${view} .legend input`);
                const shown = document.querySelector(`.view-${view} .position`);
                const began = performance.now();
                new MutationObserver((_, watching) => {
                    watching.disconnect();
                    resolve((performance.now() - began) / 1000);
                }).observe(shown, { childList: true, characterData: true, subtree: true });
                slider.value = slider.valueAsNumber + steps * Number(slider.step);
                slider.dispatchEvent(new Event("input", { bubbles: true }));
            })""",
            [view.lower(), steps],
        )

    def click_in(self, view: str, across: float, down: float) -> None:
        """Click at a share of a slice view's width and height, and wait until the other views followed."""
        others = [self.page.locator(f".view-{name} .position") for name in OTHERS[view]]
        before = [other.inner_text() for other in others]
        box = self.page.locator(f".view-{view} .picture").bounding_box()
        self.page.mouse.click(box["x"] + box["width"] * across, box["y"] + box["height"] * down)
        for other, text in zip(others, before):
            expect(other).not_to_have_text(text)

    def use_tool(self, tool: str) -> None:
        """What a click in a slice does from now on."""
        self.page.locator(f"#tool-{tool}").click()
        self.settle()

    def crosshair(self, view: str) -> tuple[float, float]:
        """Where the yellow lines of a view cross, pixels from its picture's corner."""
        self.settle()
        red, green, blue = np.moveaxis(array(self.picture(view)), 2, 0)
        # How yellow, in sum: a line that lies between two pixels is dim in both. Orange is no yellow.
        yellow = np.clip(np.minimum(red, green) - blue, 0, None) * (green > 0.6 * red)
        return float(yellow.sum(0).argmax()), float(yellow.sum(1).argmax())

    def drag(self, view: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press at one place of a view (pixels from its picture's corner), move, let go at another."""
        box = self.page.locator(f".view-{view} .picture").bounding_box()
        self.page.mouse.move(box["x"] + start[0], box["y"] + start[1])
        self.settle(0.3)  # the view must have seen what the mouse is over
        self.page.mouse.down()
        for share in (0.25, 0.5, 0.75, 1.0):
            x, y = (a + share * (b - a) for a, b in zip(start, end))
            self.page.mouse.move(box["x"] + x, box["y"] + y)
            self.settle(0.1)
        self.page.mouse.up()

    def picture(self, view: str) -> bytes:
        """What a view shows, as PNG."""
        return self.page.locator(f".view-{view.lower()} .picture").screenshot()

    def wait_until(self, holds, what: str) -> None:
        """Until what the views show is as it should be; frames arrive when they are ready."""
        end = time.monotonic() + SOON / 1000
        while not holds():
            assert time.monotonic() < end, what
            self.settle(0.3)

    def settle(self, seconds: float = 0.7) -> None:
        """Let the latest frames arrive (for pictures; nothing is asserted about it)."""
        time.sleep(seconds)


def array(png: bytes) -> np.ndarray:
    """(rows, columns, 3) int."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def grave_findings(page: Page) -> list:
    """What axe-core calls serious or critical: (rule, elements)."""
    script = Path(axe_playwright_python.__file__).parent / "axe.min.js"
    page.evaluate(script.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")["violations"]
    return [
        (violation["id"], [node["target"] for node in violation["nodes"]][:3])
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]
