"""Which tests are slow: those of ``slow_tests.txt``. To measure them anew, on an idle machine:

    TEST_COSTS=costs.csv make test && .venv/bin/python Testing/tiers.py costs.csv

A test's cost is the CPU time of it and of the processes that it started. ``make quick`` keeps the cheapest,
as many as ``QUICK_SECONDS`` hold.
"""

from __future__ import annotations

import csv
import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parent
LIST = TESTING / "slow_tests.txt"
QUICK_SECONDS = 75.0  # of CPU; starting and collecting come on top


def slow_tests() -> set[str]:
    """Their names: path below Testing/ and function, or a path for all tests of a file."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def name_of(item: pytest.Item) -> str:
    """Path below Testing/ and function, whatever the parameters."""
    return f"{item.path.relative_to(TESTING).as_posix()}::{item.name.split('[')[0]}"


def is_slow(item: pytest.Item, slow: set[str]) -> bool:
    """Is the test, or its file, in the list?"""
    name = name_of(item)
    return name in slow or name.split("::")[0] in slow


def cpu_seconds() -> float:
    """Of this process and of its ended children."""
    return sum(os.times()[:4])


def choose(costs: dict[str, float], budget: float) -> list[str]:
    """The dearest tests, so many that the others cost no more than ``budget``."""
    rest, slow = sum(costs.values()), []
    for name, cost in sorted(costs.items(), key=lambda pair: -pair[1]):
        if rest <= budget:
            break
        slow.append(name)
        rest -= cost
    return sorted(slow)


def main(path: str) -> None:
    costs: dict[str, float] = defaultdict(float)
    with open(path, encoding="utf-8", newline="") as file:
        for name, seconds in csv.reader(file):
            costs[name] += float(seconds)
    slow = choose(costs, QUICK_SECONDS)
    head = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    LIST.write_text("\n".join([*head, *slow]) + "\n", encoding="utf-8")
    print(f"{len(slow)} of {len(costs)} are slow")


if __name__ == "__main__":
    main(sys.argv[1])
