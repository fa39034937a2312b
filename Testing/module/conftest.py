"""Fixtures on the real MRML, for test files that need slicer-core and PySide6."""

from __future__ import annotations

import pytest


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
