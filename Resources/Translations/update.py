"""Bring the translation files up to date with the module's texts (needs PySide6's lupdate).

    python Resources/Translations/update.py          write
    python Resources/Translations/update.py --check  exit 1 where a file is not up to date

A text's context is Slicer's: PACKAGE.FILE for Python files, the form's class for the form.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE = HERE.parents[1] / "ProgressiveRegistration"
FORM = MODULE / "Resources" / "UI" / "ProgressiveRegistration.ui"
LANGUAGES = ("de-DE",)


def lupdate() -> str:
    """PySide6's program: the one that LUPDATE names, else the one beside this Python."""
    return os.environ.get("LUPDATE") or str(Path(sys.executable).with_name("pyside6-lupdate"))


def sources() -> dict:
    """Context -> texts in their order."""
    package = "ProgressiveRegistrationSlicer"
    files = [(f"{package}.{path.stem}", path) for path in sorted((MODULE / package).glob("*.py"))]
    files = [("ProgressiveRegistration", MODULE / "ProgressiveRegistration.py"), *files]
    out: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        for context, path in [*files, (None, FORM)]:
            made = Path(folder) / "one.ts"
            made.unlink(missing_ok=True)
            command = [lupdate(), str(path), "-tr-function-alias", "tr=_", "-ts", str(made)]
            subprocess.run(command, check=True, capture_output=True)
            for found in ElementTree.parse(made).getroot().iter("context"):
                name = found.findtext("name") or context
                texts = [message.findtext("source") for message in found.iter("message")]
                known = out.setdefault(name, [])
                known += [text for text in texts if text not in known]
    return {name: texts for name, texts in sorted(out.items()) if texts}


def translations(path: Path) -> dict:
    """(context, text) -> translation, of those that are finished."""
    if not path.is_file():
        return {}
    found = {}
    for context in ElementTree.parse(path).getroot().iter("context"):
        for message in context.iter("message"):
            translation = message.find("translation")
            if translation is not None and translation.get("type") is None and translation.text:
                found[context.findtext("name"), message.findtext("source")] = translation.text
    return found


def text_of(language: str, texts: dict, known: dict) -> str:
    """A whole .ts file. The same text in another place takes the same translation."""
    anywhere = {text: translation for (_context, text), translation in known.items()}
    root = ElementTree.Element("TS", version="2.1", language=language.replace("-", "_"), sourcelanguage="en")
    for name, sources_of in texts.items():
        context = ElementTree.SubElement(root, "context")
        ElementTree.SubElement(context, "name").text = name
        for source in sources_of:
            message = ElementTree.SubElement(context, "message")
            ElementTree.SubElement(message, "source").text = source
            translation = ElementTree.SubElement(message, "translation")
            translation.text = known.get((name, source)) or anywhere.get(source)
            if translation.text is None:
                translation.set("type", "unfinished")
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE TS>\n{body}\n'


def main() -> int:
    texts, late = sources(), []
    for language in LANGUAGES:
        path = HERE / f"ProgressiveRegistration_{language}.ts"
        new = text_of(language, texts, translations(path))
        if not path.is_file() or path.read_text(encoding="utf-8") != new:
            late.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    if late:
        print(("Not up to date: " if "--check" in sys.argv else "Written: ") + ", ".join(late))
    return 1 if late and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
