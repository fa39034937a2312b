"""Fixtures on the real MRML, for test files that need slicer-core and PySide6."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

MISSING = [
    name for module, name in (("slicer", "slicer-core"), ("PySide6", "PySide6")) if find_spec(module) is None
]

if not MISSING:
    # Before any test file: a file that imports the module's packages first would get them without Slicer's
    # translation, and all panels of the process would speak English.
    import slicer_harness

    slicer_harness.install()


class Skipped(pytest.Module):
    """A test file that is not even imported."""

    def collect(self):
        pytest.skip(f"{' and '.join(MISSING)} not installed (extra slicer-tests)", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    """Files that import Slicer are skipped where there is none."""
    if MISSING and re.search(r"^(import|from) slicer", module_path.read_text(encoding="utf-8"), re.MULTILINE):
        return Skipped.from_parent(parent, path=module_path)
    return None


@pytest.fixture
def scene():
    """The scene, empty before and after the test."""
    import slicer_harness

    scene = slicer_harness.install()
    scene.Clear(0)
    yield scene
    scene.Clear(0)


@pytest.fixture(scope="session")
def module():
    """The module's Python file, loaded as the application does."""
    import slicer_harness

    slicer_harness.install()
    return slicer_harness.load_module()


@pytest.fixture
def panel(scene, module):
    """The opened module's widget; its logic registers with ``FakeRegister`` once a test sets one."""
    import slicer_harness

    widget = slicer_harness.open_module(module)
    yield widget
    slicer_harness.close_module(widget)
