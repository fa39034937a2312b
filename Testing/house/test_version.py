"""One version number, in the engine's ``__init__.py``; whatever else states one agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ProgressiveRegistrationLib import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_the_package_takes_its_version_from_the_engine(tmp_path):
    """What hatchling would write into a wheel."""
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    assert ProjectMetadata(str(ROOT), PluginManager()).version == __version__


def test_the_citation_states_it():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["doi"] == "10.1109/TMI.2019.2953788"


def test_the_changes_have_it():
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == __version__


def test_make_benchmark_knows_the_last_release(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "Testing" / "benchmark")
    from regression import last_release

    assert last_release() == "5aec524"
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\n## 0.1.0\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="name one: make benchmark BASE=commit"):
        last_release(tmp_path)


@pytest.mark.parametrize("name", ["CMakeLists.txt", "ProgressiveRegistration/CMakeLists.txt"])
def test_cmake_states_none_of_its_own(name):
    """Slicer gives an extension its revision; a number here would be a second one to keep."""
    assert __version__ not in (ROOT / name).read_text(encoding="utf-8")


def test_the_command_line_tells_it(capsys):
    from ProgressiveRegistrationLib import cli

    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"progressive-registration {__version__}\n"
