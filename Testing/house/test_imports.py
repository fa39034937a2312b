"""Who may import whom: the contracts in pyproject.toml, checked by import-linter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter is not installed (extra lint)")

ROOT = Path(__file__).resolve().parents[2]


def lint(folder: Path, *options: str) -> subprocess.CompletedProcess:
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; "
    code += "lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_contracts_are_kept():
    answer = lint(ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout


def test_a_circle_is_found(tmp_path):
    """The same contract on a package of two modules that import each other."""
    package = tmp_path / "made_up"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from . import two\n")
    (package / "two.py").write_text("def late():\n    from . import one\n")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_packages = ["made_up"]\n'
        '[[tool.importlinter.contracts]]\nname = "no circle"\ntype = "acyclic_siblings"\n'
        'ancestors = ["made_up"]\n'
    )
    answer = lint(tmp_path)
    assert answer.returncode == 1
    assert "1 broken" in answer.stdout
