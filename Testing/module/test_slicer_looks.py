"""The panel on a small screen, in a dark window, by keyboard and read aloud."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
import slicer
import slicer_harness
from slicer_harness.fixtures import FakeRegister, add_pair, add_points, fixed_points, motion

UI = slicer_harness.REPOSITORY / "ProgressiveRegistration" / "Resources" / "UI" / "ProgressiveRegistration.ui"
LONG = "20260114_CT_Thorax_Inspiration_B30f_1.0mm_reconstruction_of_a_very_long_name"


def test_panel_fits_320_pixels_with_everything_open_and_long_names(panel):
    p = panel._parameterNode
    p.fixedVolume, p.movingVolume = add_pair()
    p.movingVolume.SetName(LONG)
    p.fixedLandmarks, p.movingLandmarks = add_points(fixed_points()), add_points(motion(fixed_points()))
    for section in ("landmarks", "options", "frames"):
        getattr(panel.ui, f"{section}CollapsibleButton").collapsed = False
    panel.logic._register = FakeRegister()
    panel.ui.applyButton.click()
    assert slicer_harness.process_events_until(lambda: panel._task is None)
    panel._showMessage(f"{LONG} has several values a voxel: choose a CT with one.", problem=True)
    panel.parent.show()
    slicer.app.processEvents()
    assert panel.layout.minimumSize().width() <= 320


def test_long_words_may_wrap_and_short_ones_stay():
    from ProgressiveRegistrationSlicer.looks import breakable

    assert breakable("Fixed is empty: draw it.") == "Fixed is empty: draw it."
    broken = breakable(f"{LONG} is empty. " + "x" * 100)
    assert broken.replace("\u200b", "") == f"{LONG} is empty. " + "x" * 100
    assert max(len(part) for word in broken.split() for part in word.split("\u200b")) <= 41


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("ground", "which"), [("#ffffff", 0), ("#f0f0f0", 0), ("#353535", 1), ("#232323", 1)]
)
def test_colours_can_be_read_on_light_and_dark_windows(ground, which):
    """Contrast of at least 4.5 to 1 (WCAG 2, level AA)."""
    from ProgressiveRegistrationSlicer import looks

    for pair in (looks.PROBLEM, looks.GOOD, looks.BAD):
        light, dark = sorted((luminance(ground), luminance(pair[which])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_dark_window_gets_the_light_red(panel):
    from PySide6.QtGui import QColor, QPalette

    palette = QPalette()
    palette.setColor(QPalette.Window, QColor(53, 53, 53))
    panel.ui.messageLabel.setPalette(palette)
    panel._showMessage("Something is wrong.", problem=True)
    assert panel.ui.messageLabel.styleSheet == "color: #ff8a80"


def test_all_that_takes_the_keyboard_is_in_the_tab_order_once_and_has_a_name():
    root = ElementTree.parse(UI).getroot()
    kinds = {
        "qMRMLNodeComboBox",
        "QComboBox",
        "QPushButton",
        "QCheckBox",
        "QSpinBox",
        "ctkSliderWidget",
        "ctkPathLineEdit",
        "QTableWidget",
    }
    reachable = {w.get("name"): w for w in root.iter("widget") if w.get("class") in kinds}
    stops = [stop.text for stop in root.iter("tabstop")]
    assert sorted(stops) == sorted(reachable)
    buddies = {b.findtext("cstring") for b in root.iter("property") if b.get("name") == "buddy"}
    for name, widget in reachable.items():
        own = {p.get("name") for p in widget.findall("property")}
        assert name in buddies or own & {"text", "accessibleName"}, name


def test_tab_order_goes_down_the_panel(panel):
    p = panel._parameterNode
    p.fixedVolume, p.movingVolume = add_pair()
    for section in ("landmarks", "options", "frames"):
        getattr(panel.ui, f"{section}CollapsibleButton").collapsed = False
    panel.parent.show()
    panel.parent.resize(440, panel.layout.totalHeightForWidth(440))
    slicer.app.processEvents()
    from PySide6.QtCore import QPoint
    from PySide6.QtWidgets import QWidget

    stops = [stop.text for stop in ElementTree.parse(UI).getroot().iter("tabstop")]
    shown = [getattr(panel.ui, name) for name in stops if getattr(panel.ui, name).visible]
    assert len(shown) > 30
    places = [QWidget.mapTo(widget, panel.parent, QPoint(0, 0)) for widget in shown]
    for before, after in zip(places, places[1:]):
        assert after.y() > before.y() - 15  # a row's widgets may differ by their frames
        if abs(after.y() - before.y()) <= 15:
            assert after.x() > before.x()
