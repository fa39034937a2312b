"""Which tests are slow: those of ``slow_tests.txt``."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parent


def slow_tests() -> set[str]:
    """Their names: path below Testing/ and function."""
    lines = (TESTING / "slow_tests.txt").read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def name_of(item: pytest.Item) -> str:
    """A test's path and function, without parameters."""
    return f"{item.path.relative_to(TESTING).as_posix()}::{item.name.split('[')[0]}"
