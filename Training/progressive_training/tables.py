"""Table II of a test set as CSV, JSON and Markdown, and every landmark as CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from ProgressiveRegistrationLib.files import write_text

from .evaluation import PairResult, compare

PROTOCOL = (
    "TRE = |T(x) - y| in mm, T from the fixed to the moving image, x and y the fixed and moving landmark; "
    "continuous, not snapped to voxels; all landmarks count. "
    "± is the standard deviation over landmarks (divided by n, as in the paper's Table II); of folding, "
    "over pairs. Folding = voxels of the field's own grid with a Jacobian determinant <= 0, in the fixed "
    "image's field of view and in its lung."
)


def mean_sd(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (divided by n: the paper's "before" column agrees with that,
    not with n - 1)."""
    values = np.asarray(values, float)
    return float(values.mean()), float(values.std())


def table(results: list[PairResult]) -> list[dict[str, Any]]:
    """One row a pair, then one for every data set with several pairs, then "All".

    Keys: ``data_set``, ``pair``, ``landmarks``, ``before_mean``, ``before_sd``, and per method
    ``LABEL_mean``, ``LABEL_sd`` (mm), ``LABEL_folding_fov``, ``LABEL_folding_lung`` (percent), in sums also
    their ``_sd``, and ``LABEL_seconds``.
    """
    rows = [_row(r.data_set, r.name, [r]) for r in results]
    names = list(dict.fromkeys(r.data_set for r in results))
    for name in names:
        group = [r for r in results if r.data_set == name]
        if len(group) > 1 and len(names) > 1:
            rows.append(_row(name, "all", group))
    if len(results) > 1:
        rows.append(_row("All", "", results))
    return rows


def _row(data_set: str, name: str, group: list[PairResult]) -> dict[str, Any]:
    before = np.concatenate([r.before for r in group])
    row: dict[str, Any] = {"data_set": data_set, "pair": name, "landmarks": len(before)}
    row["before_mean"], row["before_sd"] = mean_sd(before)
    for label in group[0].methods:
        methods = [r.methods[label] for r in group]
        row[f"{label}_mean"], row[f"{label}_sd"] = mean_sd(np.concatenate([m.errors for m in methods]))
        for place, key in (("fov", "field_of_view_percent"), ("lung", "lung_percent")):
            values = [m.folding[key] for m in methods if m.folding[key] is not None]
            row[f"{label}_folding_{place}"] = float(np.mean(values)) if values else None
            if len(group) > 1:
                row[f"{label}_folding_{place}_sd"] = float(np.std(values)) if values else None
        row[f"{label}_seconds"] = float(np.mean([m.seconds for m in methods]))
    return row


def summary(results: list[PairResult], lung_boxes: str, refinement: str | None, notes: list[str]) -> dict:
    """Everything but single landmarks, for JSON; the first method is compared
    with the last when there are several."""
    labels = list(results[0].methods)
    out: dict[str, Any] = {
        "protocol": PROTOCOL,
        "lung_boxes": lung_boxes,
        "refinement": refinement or "none",
        "methods": labels,
        "rows": table(results),
        "notes": list(notes)
        + [
            f"{r.data_set} {r.name}, {label}: {n}"
            for r in results
            for label, m in r.methods.items()
            for n in m.notes
        ],
    }
    if len(labels) > 1:
        out["wilcoxon"] = compare(results, labels[0], labels[-1])
    return out


def to_markdown(content: dict) -> str:
    """The summary as Markdown."""
    labels = content["methods"]
    head = ["Data set", "Pair", "Landmarks", "Before: TRE (mm)"]
    for label in labels:
        head += [f"{label}: TRE (mm)", f"{label}: folding, field of view", f"{label}: folding, lung"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * 3 + "---:|" * (len(head) - 3)]
    for row in content["rows"]:
        cells = [row["data_set"], row["pair"], str(row["landmarks"]), _pm(row, "before_mean", "before_sd")]
        for label in labels:
            cells.append(_pm(row, f"{label}_mean", f"{label}_sd"))
            for place in ("fov", "lung"):
                cells.append(_pm(row, f"{label}_folding_{place}", f"{label}_folding_{place}_sd", "%"))
        lines.append("| " + " | ".join(cells) + " |")
    boxes, refinement = content["lung_boxes"], content["refinement"]
    lines += ["", f"Lung boxes: {boxes}. Refinement: {refinement}. {content['protocol']}"]
    if "wilcoxon" in content:
        test = content["wilcoxon"]
        lines += ["", f"One-sided Wilcoxon signed-rank test, {test['hypothesis']}:"]
        for key, what in (("pairs", "means of the pairs"), ("landmarks", "single landmarks")):
            t = test[key]
            lines.append(
                f"- {what}: W = {t['W']:g}, p = {t['p']:.2g}, n = {t['n']}, better in {t['better_in']}, mean "
                f"difference {t['mean_difference_mm']:.2f} mm"
            )
        lines.append("")
        lines.append(
            "Landmarks of one pair are not independent; the test on the pairs' means is the paper's."
        )
    lines += [f"- {note}" for note in content["notes"]]
    return "\n".join(lines) + "\n"


def _pm(row: dict, mean: str, sd: str, unit: str = "") -> str:
    value, spread = row.get(mean), row.get(sd)
    if value is None:
        return "-"
    return f"{value:.2f}{unit}" if spread is None else f"{value:.2f} ± {spread:.2f}{unit}"


def to_csv(rows: list[dict]) -> str:
    """Rows as CSV; columns in the order in which they first occur."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def landmark_rows(results: list[PairResult]) -> list[dict]:
    """One row a landmark: LPS mm of x and y, |x - y|, and for each method T(x) and |T(x) - y|."""
    rows = []
    for r in results:
        for i, label in enumerate(r.labels):
            row: dict[str, Any] = {"data_set": r.data_set, "pair": r.name, "label": label}
            for name, points in (("fixed", r.fixed_points), ("moving", r.moving_points)):
                row.update({f"{name}_{c}_lps": round(float(v), 4) for c, v in zip("xyz", points[i])})
            row["before_mm"] = round(float(r.before[i]), 4)
            for method, m in r.methods.items():
                row.update({f"{method}_{c}_lps": round(float(v), 4) for c, v in zip("xyz", m.mapped[i])})
                row[f"{method}_mm"] = round(float(m.errors[i]), 4)
            rows.append(row)
    return rows


def write_results(
    results: list[PairResult],
    folder: Path,
    lung_boxes: str,
    refinement: str | None = None,
    notes: list[str] | None = None,
) -> dict:
    """Write ``table.csv``, ``table.md``, ``table.json`` and ``landmarks.csv``; returns the JSON's content."""
    content = summary(results, lung_boxes, refinement, notes or [])
    write_text(folder / "table.csv", to_csv(content["rows"]))
    write_text(folder / "table.md", to_markdown(content))
    write_text(folder / "table.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "landmarks.csv", to_csv(landmark_rows(results)))
    return content
