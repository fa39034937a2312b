"""Which tests are slow: those of ``slow_tests.txt``."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parent


def slow_tests() -> set[str]:
    """Their names: path below Testing/ and function, or a path for all tests of a file."""
    lines = (TESTING / "slow_tests.txt").read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def is_slow(item: pytest.Item, slow: set[str]) -> bool:
    """Is the test, whatever its parameters, or its file in the list?"""
    path = item.path.relative_to(TESTING).as_posix()
    return path in slow or f"{path}::{item.name.split('[')[0]}" in slow
