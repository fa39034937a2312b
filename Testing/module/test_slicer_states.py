"""Every state that the panel can be in, light and dark: pictures for a person, and what must hold in each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed (extra slicer-tests)")
pytest.importorskip("PySide6", reason="PySide6 is not installed (extra slicer-tests)")

import numpy as np
import slicer
import slicer_harness
from ProgressiveRegistrationLib.errors import InputError
from ProgressiveRegistrationLib.lungs import find_lungs
from ProgressiveRegistrationLib.phantom.pair import breathing_thorax
from ProgressiveRegistrationSlicer import sample_data
from slicer_harness.fixtures import FakeRegister

NARROW, USUAL = 320, 440
SECTIONS = ("inputs", "frames", "outputs", "options", "landmarks", "quality")


@pytest.fixture(scope="module")
def pair():
    return breathing_thorax(3, size=(96, 96, 80), spacing=(3.6, 3.6, 4.0), tips=600, landmarks=12)


@pytest.fixture(params=["light", "dark"])
def dark(request) -> bool:
    """The application in these colours."""
    from PySide6.QtGui import QColor, QPalette
    from PySide6.QtWidgets import QApplication

    application = QApplication.instance()
    before = QPalette(application.palette())
    style = application.style().objectName()
    application.setStyle("Fusion")
    palette = QPalette()
    roles = {"Window": 53, "Base": 35, "AlternateBase": 45, "Button": 53, "ToolTipBase": 35}
    texts = ("WindowText", "Text", "ButtonText", "ToolTipText", "BrightText")
    is_dark = request.param == "dark"
    for name, value in roles.items():
        palette.setColor(getattr(QPalette, name), QColor(*[value if is_dark else 255 - (255 - 240) // 2] * 3))
    for name in texts:
        palette.setColor(getattr(QPalette, name), QColor(*[230 if is_dark else 20] * 3))
        faint = QColor(*[130 if is_dark else 140] * 3)
        palette.setColor(QPalette.Disabled, getattr(QPalette, name), faint)
    application.setPalette(palette)
    yield is_dark
    application.setPalette(before)
    application.setStyle(style)


@pytest.fixture
def shoot(dark, tmp_path_factory):
    """``shoot(panel, state)`` keeps a picture of the panel and returns it, (rows, columns, 3)."""
    from PIL import Image
    from PySide6.QtGui import QImage

    folder = os.environ.get("MODULE_SCREENSHOTS")
    folder = Path(folder) if folder else tmp_path_factory.mktemp("states")

    def grab(panel, state: str, width: int = USUAL) -> np.ndarray:
        panel.parent.show()
        slicer.app.processEvents()
        panel.parent.resize(width, max(panel.layout.totalHeightForWidth(width), 300))
        slicer.app.processEvents()
        image = panel.parent.grab().toImage().convertToFormat(QImage.Format_RGB888)
        values = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
        values = values[:, : 3 * image.width()].reshape(image.height(), image.width(), 3).copy()
        Image.fromarray(values).save(folder / f"{state}-{'dark' if dark else 'light'}.png")
        assert panel.layout.minimumSize().width() <= NARROW, state
        assert np.median(values) < 128 if dark else np.median(values) > 128, state
        return values

    return grab


def finish(panel):
    assert slicer_harness.process_events_until(lambda: panel._task is None, 120)


def test_every_state_fits_and_says_what_can_be_done(panel, pair, shoot):
    ui, p = panel.ui, panel._parameterNode
    shoot(panel, "01-empty")
    assert (ui.applyButton.text, ui.applyButton.enabled) == ("Select a fixed volume", False)
    fixed, moving, fixed_points, moving_points = sample_data.add_to_scene(pair)
    p.fixedVolume = fixed
    shoot(panel, "02-one-volume")
    assert (ui.applyButton.text, ui.applyButton.enabled) == ("Select a moving volume", False)
    p.movingVolume = moving
    shoot(panel, "03-ready")
    assert (ui.applyButton.text, ui.applyButton.enabled) == ("Register", True)

    lungs = find_lungs(pair.fixed, mask=pair.fixed_lungs)
    panel.logic._register = FakeRegister(field=pair.field, lungs=lungs, wait=True)
    ui.applyButton.click()
    assert slicer_harness.process_events_until(lambda: ui.progressBar.value > 0, 30)
    shoot(panel, "04-running")
    assert (ui.applyButton.text, ui.applyButton.enabled) == ("Cancel", True)
    assert not ui.undoButton.enabled
    ui.applyButton.click()
    finish(panel)
    shoot(panel, "05-cancelled")
    assert ui.messageLabel.text == "Cancelled; the scene is as it was."

    panel.logic._register = FakeRegister(error=InputError("Thorax exhale holds no lungs: choose a chest CT."))
    ui.applyButton.click()
    finish(panel)
    shoot(panel, "06-error")
    assert "holds no lungs" in ui.messageLabel.text

    panel.logic._register = FakeRegister(field=pair.field, lungs=lungs)
    ui.applyButton.click()
    finish(panel)
    shoot(panel, "07-done")
    assert ui.undoButton.enabled
    p.fixedLandmarks, p.movingLandmarks = fixed_points, moving_points
    ui.landmarksCollapsibleButton.collapsed = False
    slicer.app.processEvents()
    shoot(panel, "08-done-with-tre")
    assert ui.treTable.rowCount == 12
    panel.ui.fusionComboBox.setCurrentText("Expected error")
    finish(panel)
    shoot(panel, "09-expected-error")
    p.fixedLandmarks = p.movingLandmarks = None
    p.suggestCount = 6
    ui.suggestButton.click()
    finish(panel)
    shoot(panel, "10-suggestions")
    assert "to go" in ui.reviewLabel.text
    assert ui.acceptButton.enabled
    ui.twoUpButton.checked = False


def test_every_section_open_is_as_narrow_as_the_window_lets_it(panel, pair, shoot):
    ui, p = panel.ui, panel._parameterNode
    p.fixedVolume, p.movingVolume, p.fixedLandmarks, p.movingLandmarks = sample_data.add_to_scene(pair)
    p.movingVolume.SetName("20260114_CT_Thorax_Inspiration_B30f_1.0mm_reconstruction_of_a_very_long_name")
    for name in SECTIONS:
        section = getattr(ui, f"{name}CollapsibleButton", None)
        if section is not None:
            section.collapsed = False
    panel.sequence.section.collapsed = False
    slicer.app.processEvents()
    shoot(panel, "11-all-sections")
    shoot(panel, "12-all-sections-320", NARROW)
    panel.parent.resize(USUAL, panel.layout.totalHeightForWidth(USUAL) + 500)
    slicer.app.processEvents()
    gap = panel.sequence.section.geometry.y() - ui.qualityCollapsibleButton.geometry.bottom()
    assert 0 < gap < 30, "the room that is left lies below the last section"
