"""The German file is proof that the module's texts translate: it is up to date, and the panel speaks it."""

from __future__ import annotations

import ast
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


def tool(name: str) -> Path:
    """A program of PySide6, which may be of an environment whose packages this one borrows."""
    import PySide6

    places = [Path(sys.executable).parent, Path(PySide6.__file__).resolve().parents[4] / "bin"]
    for place in places:
        if (place / name).is_file():
            return place / name
    pytest.skip(f"PySide6's {name} is not beside this Python")


def test_file_has_every_text_of_the_module(monkeypatch):
    lupdate = tool("pyside6-lupdate")
    monkeypatch.setenv("LUPDATE", str(lupdate))
    done = subprocess.run(
        [sys.executable, str(FOLDER / "update.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr + " (run Resources/Translations/update.py)"


def test_every_text_is_translated_with_its_placeholders():
    for message in messages():
        assert message.find("translation").get("type") is None, message.findtext("source")
        assert message.findtext("translation")
        source, translation = message.findtext("source"), message.findtext("translation")
        assert set(re.findall(r"\{[^{}]+\}", source)) == set(re.findall(r"\{[^{}]+\}", translation)), source


def test_panel_speaks_german(scene, module, tmp_path, monkeypatch):
    """lrelease's file in Qt's own translator, asked in the way of Slicer's ``tr``: by package and file."""
    from PySide6.QtCore import QCoreApplication, QTranslator

    lrelease = tool("pyside6-lrelease")
    made = tmp_path / "de.qm"
    subprocess.run([str(lrelease), str(GERMAN), "-qm", str(made)], check=True, capture_output=True)
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


def test_no_text_is_translated_while_the_module_is_imported():
    """It would stay in the language of that moment, and in English where that comes too early."""

    def translated(node):
        """Calls of ``_`` and ``translate`` that run at import: not those in functions."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                continue
            if isinstance(child, ast.Call) and getattr(child.func, "id", "") in ("_", "translate"):
                yield child.lineno
            yield from translated(child)

    package = slicer_harness.REPOSITORY / "ProgressiveRegistration"
    files = [
        package / "ProgressiveRegistration.py",
        *(package / "ProgressiveRegistrationSlicer").glob("*.py"),
    ]
    trees = {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    assert list(translated(ast.parse("A = _('a')\nclass B:\n    b = translate('c', 'd')"))) == [1, 3]
    assert {name: list(translated(tree)) for name, tree in trees.items() if any(translated(tree))} == {}
