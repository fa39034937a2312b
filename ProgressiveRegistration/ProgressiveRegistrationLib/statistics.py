"""The figures that sum up a list of errors: what each is called, and how it is computed.
Every table reads them here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InputError


@dataclass(frozen=True)
class Statistic:
    """label : for people. of : values (n,) -> the figure, in their unit."""

    label: str
    of: Callable[[np.ndarray], Any]


def _sd(values: np.ndarray) -> Any:
    return values.std(ddof=1) if values.size > 1 else 0.0


PERCENTILE = 95  # the one that is told
TAIL = f"p{PERCENTILE}"  # the figure that stands for the worst part where there is room for one
TAIL_SHORT = f"{PERCENTILE} %"  # in a line with others

# By their keys in report.json and in a batch's tables, in the order in which they are shown.
STATISTICS = {
    "mean": Statistic("mean", np.mean),
    "sd": Statistic("sd", _sd),
    "median": Statistic("median", np.median),
    TAIL: Statistic(f"{PERCENTILE}th percentile", lambda values: np.percentile(values, PERCENTILE)),
    "max": Statistic("largest", np.max),
}
# When the error of a landmark is taken -> what people read.
WHEN = {"before": "before", "lung_boxes": "lung boxes aligned", "after": "after"}


def statistics(errors: np.ndarray) -> dict[str, Any]:
    """``STATISTICS`` and ``count`` of values (n,); sd of the sample (n - 1), 0 for one value.

    Examples
    --------
    >>> found = statistics([1.0, 2.0, 3.0])
    >>> found["mean"], found["sd"], found["max"], found["count"]
    (2.0, 1.0, 3.0, 3)
    """
    errors = np.asarray(errors, float).ravel()
    if errors.size == 0:
        raise InputError("There is no value to take statistics of.")
    return {**{key: float(s.of(errors)) for key, s in STATISTICS.items()}, "count": int(errors.size)}
