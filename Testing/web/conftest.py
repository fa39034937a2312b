"""A server of the page as a user starts it, and Debian's Chromium to look at it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Where screenshots go: the docs' folder when they are renewed (make screenshots), else a temporary one.
SCREENSHOTS = os.environ.get("WEB_SCREENSHOTS")


def needed(what: bool, name: str) -> None:
    """Skip where something is not installed; fail in CI, where it must be."""
    if not what:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have {name}.")
        pytest.skip(f"needs {name}")


class Server:
    """``progressive-registration web`` in a process of its own; ``url`` once it answers."""

    def __init__(self, *options, port: int = 0, environment: dict | None = None) -> None:
        command = [
            sys.executable,
            "-m",
            "ProgressiveRegistrationLib.cli",
            "web",
            "--port",
            str(port),
            *map(str, options),
        ]
        paths = [str(REPOSITORY / "ProgressiveRegistration"), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(environment or {})}
        env.setdefault("PYTHONFAULTHANDLER", "1")  # a crash tells where
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=REPOSITORY
        )
        self.lines: list[str] = []
        self.mourned = False
        self._ready = threading.Event()
        self.url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(120) or not self.url:
            self.stop()
            pytest.fail("The server did not start:\n" + "".join(self.lines))

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"http://[^\s]+", line)
            if found and not self.url:
                self.url = found.group()
                self._ready.set()
        self._ready.set()

    @property
    def port(self) -> int:
        return int(re.search(r":(\d+)/", self.url).group(1))

    def ended(self, seconds: float = 0) -> str | None:
        """How it ended before its time and what it said last; None if it runs for some seconds more."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            if not any(line.startswith("Stopping") for line in self.lines):
                return None
            self.process.wait(20)
        self._reader.join(20)
        return f"The page's server ended with exit code {self.process.returncode}. {self.last_words()}"

    def last_words(self) -> str:
        """Its latest output."""
        return "Its latest output:\n" + ("".join(self.lines[-60:]) or "(none)\n")

    def close(self) -> None:
        """The end of a fixture: it must have run until now, and end in order."""
        how = self.ended()
        code = self.stop()
        if not self.mourned:
            assert how is None, how
            assert code == 0, self.last_words()
            assert not [line for line in self.lines if "Traceback" in line], "".join(self.lines)

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        self._reader.join(20)
        self.process.stdout.close()
        return self.process.returncode


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """A server that died fails one test, with its own words; the tests that need it after that are skipped.

    Every failure shows what the server said.
    """
    servers = [value for value in getattr(item, "funcargs", {}).values() if isinstance(value, Server)]
    for server in servers:
        if server.mourned:
            pytest.skip("the page's server died in an earlier test, which failed")
        how = server.ended()
        if how is not None:
            server.mourned = True
            pytest.fail(f"Between two tests: {how}", pytrace=False)
    try:
        return (yield)
    except Exception:
        for server in servers:
            how = server.ended()
            server.mourned = how is not None
            item.add_report_section("call", "the page's server", how or server.last_words())
        raise


@pytest.fixture(scope="session")
def web():
    """The packages that serve the page."""
    try:
        import trame_slicer  # noqa: F401
    except ImportError:
        needed(False, "trame-slicer (extra web)")


@pytest.fixture(scope="session")
def browser(web):
    """Headless Chromium."""
    needed(CHROMIUM is not None, "chromium (Debian package chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        needed(False, "playwright (extra test)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory) -> Path:
    """The folder of pictures."""
    return Path(SCREENSHOTS) if SCREENSHOTS else tmp_path_factory.mktemp("screenshots")
