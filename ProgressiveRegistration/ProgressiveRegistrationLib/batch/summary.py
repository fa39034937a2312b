"""``summary.csv`` and ``summary.html`` of a batch: a row a pair, as the paper's Table II, and totals."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..files import write_text
from ..formats import REPORT_JSON, REPORT_PAGE
from ..report import pictures
from ..report.page import page_template
from ..statistics import STATISTICS
from .table import folder_name

FIGURES = (
    "landmarks",
    *(f"tre_{when}_{name}_mm" for when in ("before", "after") for name in STATISTICS),
    "folding_lung_percent",
    "folding_field_of_view_percent",
    "inverse_consistency_mean_mm",
    "seconds",
)
COLUMNS = ("id", "status", *FIGURES, "report", "error")
REFRESH_SECONDS = 15


def summary_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A flat row of each record, with all COLUMNS; None where there is nothing. ``report``:
    relative to the batch's folder."""
    rows = []
    for record in records:
        figures = record.get("figures") or {}
        row = {"id": record["id"], "status": record["status"], "report": None, "error": record.get("error")}
        row.update({name: figures.get(name) for name in FIGURES})
        if record["status"] == "done":
            names = record["outputs"]
            row["report"] = (
                f"{folder_name(record['id'])}/{REPORT_PAGE if REPORT_PAGE in names else REPORT_JSON}"
            )
        rows.append({name: row[name] for name in COLUMNS})
    return rows


def totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What Table II has in its row "All": TRE (mm) over all landmarks of all pairs, folding (%)
    as mean and sd over pairs.

    ``tre_*_pairs_mm`` are the means of the pairs' means. None where nothing was measured; sd of the sample.
    """
    done = [row for row in rows if row["status"] == "done"]
    measured = [row for row in done if row["landmarks"]]
    out: dict[str, Any] = {
        "pairs": len(rows),
        **{status: sum(row["status"] == status for row in rows) for status in ("done", "failed", "waiting")},
        "landmarks": sum(row["landmarks"] for row in measured),
    }
    for when in ("before", "after"):
        mean, sd = _pooled(measured, when)
        out[f"tre_{when}_mean_mm"], out[f"tre_{when}_sd_mm"] = mean, sd
        means = [row[f"tre_{when}_mean_mm"] for row in measured]
        out[f"tre_{when}_pairs_mm"] = float(np.mean(means)) if means else None
    for where in ("lung", "field_of_view"):
        values = [row[f"folding_{where}_percent"] for row in done]
        values = [v for v in values if v is not None]
        out[f"folding_{where}_percent"] = float(np.mean(values)) if values else None
        out[f"folding_{where}_sd_percent"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    seconds = [row["seconds"] for row in done if row["seconds"] is not None]
    out["seconds"] = float(np.mean(seconds)) if seconds else None
    out["seconds_sum"] = float(np.sum(seconds))
    return out


def _pooled(rows: Sequence[Mapping[str, Any]], when: str) -> tuple[float | None, float | None]:
    """Mean and sample sd of all pairs' landmarks together, from each pair's count, mean and sd."""
    n = np.array([row["landmarks"] for row in rows], float)
    if not n.sum():
        return None, None
    mean = np.array([row[f"tre_{when}_mean_mm"] for row in rows])
    sd = np.array([row[f"tre_{when}_sd_mm"] for row in rows])
    whole = float((n * mean).sum() / n.sum())
    squares = float(((n - 1) * sd**2).sum() + (n * (mean - whole) ** 2).sum())
    return whole, math.sqrt(squares / (n.sum() - 1)) if n.sum() > 1 else 0.0


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as CSV text; empty cells where nothing was measured. TRE in mm, folding in percent."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: "" if v is None else f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()}
        )
    return text.getvalue()


def render(rows: Sequence[Mapping[str, Any]], head: Mapping[str, Any], notes: Mapping[str, list[str]]) -> str:
    """The page as one HTML text. ``head``: command, options, model, where; ``notes``: by id."""
    options = head["options"]
    options = dict(options) if isinstance(options, Mapping) else asdict(options)
    sizes = [row[f"tre_{when}_mean_mm"] for row in rows for when in ("before", "after")]
    shown = [{**row, "link": row["report"] and quote(row["report"])} for row in rows]
    return page_template("summary.html.jinja").render(
        rows=shown,
        total=totals(rows),
        longest=max((s for s in sizes if s is not None), default=1.0) or 1.0,
        notes={key: value for key, value in notes.items() if value},
        options=options,
        model=head.get("model"),
        where=head.get("where"),
        version=head.get("version"),
        command=head.get("command"),
        created=datetime.now(timezone.utc).isoformat(" ", timespec="seconds").replace("+00:00", " UTC"),
        refresh=REFRESH_SECONDS if any(row["status"] == "waiting" for row in rows) else None,
        fixed_colour=pictures.FIXED_COLOUR,
        moving_colour=pictures.MOVING_COLOUR,
    )


def write_summary(
    folder: str | os.PathLike, records: Sequence[Mapping[str, Any]], head: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Write ``summary.csv`` and ``summary.html``, each whole or not at all; returns the rows.
    Raises OutputError."""
    rows = summary_rows(records)
    folder = Path(folder)
    write_text(folder / "summary.csv", to_csv(rows))
    notes = {record["id"]: record.get("notes") or [] for record in records}
    write_text(folder / "summary.html", render(rows, head, notes))
    return rows
