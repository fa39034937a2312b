"""The documentation: every page is in the navigation, it builds without a warning, loads nothing from
elsewhere, and what its examples show is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXAMPLES = sorted(path for path in DOCS.glob("extend/*.md") if path.stem != "index")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def navigation(entry) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(entry, str):
        return [entry]
    return [
        page for part in (entry.values() if isinstance(entry, dict) else entry) for page in navigation(part)
    ]


def pages() -> list[str]:
    return navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])


def elsewhere() -> dict[str, str]:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra docs)")
    sys.path.insert(0, str(DOCS / "_site"))
    try:
        import hooks
    finally:
        sys.path.remove(str(DOCS / "_site"))
    return hooks.ELSEWHERE


def test_every_page_is_in_the_navigation_once():
    present = [p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")] + list(elsewhere())
    assert sorted(pages()) == sorted(present), "name each page of docs/ under nav in mkdocs.yml"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return folder


def test_it_builds_with_warnings_as_errors(site):
    for page in pages():
        assert (site / page).with_suffix(".html").is_file(), page


def test_pages_load_nothing_from_the_web(site):
    """Scripts, styles, fonts and pictures lie beside the pages; only links lead out."""
    fetched = re.compile(
        r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=\"?((?:https?:)?//[^\">\s]+)"
    )
    for path in site.rglob("*.html"):
        found = [u for u in fetched.findall(path.read_text(encoding="utf-8")) if "rel=canonical" not in u]
        assert not found, (path.name, found)
        # The theme's script asks GitHub about the repository for each of these.
        assert 'data-md-component="source"' not in path.read_text(encoding="utf-8"), path.name
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\(\"?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_lists_and_tables_are_no_walls_of_text(site):
    """A list right under a paragraph's line becomes a part of it, a table of ours in a docstring is none."""
    for path in site.rglob("*.html"):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, flags=re.DOTALL):
            assert not re.search(r"^(- |\d+\. |\|.*\|$|=====)", paragraph, re.MULTILINE), (
                path.name,
                paragraph,
            )


def test_the_reference_has_the_docstrings(site):
    text = (site / "api" / "register.html").read_text(encoding="utf-8")
    assert "Register two lung CTs of one patient" in text
    assert "<strong>lung_boxes</strong>" in text


@pytest.fixture
def tables():
    """The engine's tables, afterwards as they were before."""
    from ProgressiveRegistrationLib import landmarks, presets

    before = [(table, table.copy()) for table in (presets.PRESETS, landmarks.FORMATS)]
    yield
    for table, content in before:
        table.clear()
        table.update(content)


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda path: path.stem)
def test_worked_examples_do_what_their_page_says(page, tables, tmp_path, monkeypatch, capsys):
    """All Python blocks of the page in one go, in an empty folder; ``#
    ...`` after a print is what it prints."""
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    code = "\n".join(blocks)
    exec(compile(code, str(page), "exec"), {"__name__": page.stem})
    said = capsys.readouterr().out.splitlines()
    for expected in re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE):
        assert " ".join(expected.split()) in [" ".join(line.split()) for line in said]


def test_examples_are_found():
    assert [page.stem for page in EXAMPLES] == ["data-reader", "landmark-format", "model", "preset"]


def test_presets_are_described_in_the_same_words_everywhere():
    """The panel, the page and the command line take them from ``presets.py``; these pages are written."""
    from ProgressiveRegistrationLib.presets import PRESETS

    module = (ROOT / "ProgressiveRegistration" / "README.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        assert f"| {preset.label} | {preset.description} |" in module
        assert f"*{name}*: {preset.description}" in readme
