"""Fixtures that several test files share."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
from tiers import cpu_seconds, is_slow, name_of, slow_tests

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real CT beside the checkout; CI must have it, elsewhere its tests are skipped."""
    if not SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must have the real data at {SHARED}.")
        pytest.skip("needs the real CT in ../shared/data, which is not beside this checkout")
    return SHARED


def pytest_collection_modifyitems(items) -> None:
    slow = slow_tests()
    for item in items:
        if is_slow(item, slow):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """With TEST_COSTS=FILE every test's CPU seconds are written down: see ``tiers.py``."""
    began = cpu_seconds()
    result = yield
    if "TEST_COSTS" in os.environ:
        with open(os.environ["TEST_COSTS"], "a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([name_of(item), f"{cpu_seconds() - began:.3f}"])
    return result
