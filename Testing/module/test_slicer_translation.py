"""The German file is proof that the module's texts translate: it is up to date, and the panel speaks it."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import slicer
import slicer_harness
from slicer_harness.fixtures import add_pair

FOLDER = slicer_harness.REPOSITORY / "Resources" / "Translations"
GERMAN = FOLDER / "ProgressiveRegistration_de-DE.ts"


def messages():
    return list(ElementTree.parse(GERMAN).getroot().iter("message"))


def test_file_has_every_text_of_the_module():
    if not Path(sys.executable).with_name("pyside6-lupdate").is_file():
        pytest.skip("PySide6's lupdate is not beside this Python")
    done = subprocess.run(
        [sys.executable, str(FOLDER / "update.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + " (run Resources/Translations/update.py)"


def test_translations_keep_their_placeholders_and_most_of_the_form_is_done():
    done = [m for m in messages() if m.find("translation").get("type") is None]
    assert len(done) > 120
    for message in done:
        source, translation = message.findtext("source"), message.findtext("translation")
        assert set(re.findall(r"\{[^{}]+\}", source)) == set(re.findall(r"\{[^{}]+\}", translation)), source


def test_panel_speaks_german(scene, module, tmp_path, monkeypatch):
    """lrelease's file in Qt's own translator, asked in the way of Slicer's ``tr``: by package and file."""
    from PySide6.QtCore import QCoreApplication, QTranslator

    tool = Path(sys.executable).with_name("pyside6-lrelease")
    if not tool.is_file():
        pytest.skip("PySide6's lrelease is not beside this Python")
    made = tmp_path / "de.qm"
    subprocess.run([str(tool), str(GERMAN), "-qm", str(made)], check=True, capture_output=True)
    translator = QTranslator()
    assert translator.load(str(made))
    QCoreApplication.installTranslator(translator)
    monkeypatch.setattr(slicer.app, "translate", QCoreApplication.translate)
    try:
        widget = slicer_harness.open_module(module)
        assert widget.ui.applyButton.text == "Festes Volumen wählen"
        assert widget.ui.inputsCollapsibleButton.text == "Eingaben"
        assert "Schachbrett" in [
            widget.ui.fusionComboBox.itemText(n) for n in range(widget.ui.fusionComboBox.count)
        ]
        fixed, moving = add_pair()
        widget._parameterNode.fixedVolume = fixed
        assert widget.ui.applyButton.text == "Bewegtes Volumen wählen"
        widget._parameterNode.movingVolume = moving
        assert widget.ui.applyButton.text == "Registrieren"
        widget.ui.reportButton.enabled = True
        widget.onReportButton()
        assert widget.ui.messageLabel.text == "Einen Ordner für den Bericht wählen."
        slicer_harness.close_module(widget)
    finally:
        QCoreApplication.removeTranslator(translator)
