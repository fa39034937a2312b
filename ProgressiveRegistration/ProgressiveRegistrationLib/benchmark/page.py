"""A benchmark's runs as table and plot: Markdown and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..presets import PRESETS
from ..report.charts import cost_accuracy_svg
from ..report.page import page_template
from ..report.pictures import FIXED_COLOUR, MOVING_COLOUR
from ..statistics import TAIL, TAIL_SHORT

HEAD = (
    "program",
    "TRE (mm)",
    f"{TAIL_SHORT} (mm)",
    "folding (%)",
    "CPU s",
    "wall s",
    "memory (GiB)",
    "file (MB)",
)


def cells(row: Mapping[str, Any]) -> list[str]:
    """What a table's row says of a run, in the order of HEAD."""
    cost = [f"{row['cpu_seconds']:.1f}", f"{row['wall_seconds']:.1f}", f"{row['memory_bytes'] / 2**30:.2f}"]
    if row["error"]:
        return [row["program"], "failed", "", "", *cost, ""]
    figures = row["figures"]
    error = figures.get("tre_mm")
    after = error["after"] if error else None
    folds = figures["folding"]["lung_percent"]
    return [
        row["program"],
        f"{after['mean']:.2f} ± {after['sd']:.2f}" if after else "no landmarks",
        f"{after[TAIL]:.2f}" if after else "",
        "" if folds is None else f"{folds:.4f}",
        *cost,
        f"{row['file_bytes'] / 1e6:.1f}",
    ]


def sentence(row: Mapping[str, Any]) -> str:
    """One line about a run, for the terminal."""
    if row["error"]:
        return str(row["error"])
    return ", ".join(f"{name} {cell}" for name, cell in zip(HEAD[1:], cells(row)[1:]) if cell)


def tables(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each pair: its name, mean TRE before, rows of cells, the plot (SVG) where there are landmarks."""
    out = []
    for pair in dict.fromkeys(row["pair"] for row in content["runs"]):
        runs = [row for row in content["runs"] if row["pair"] == pair]
        runs.sort(key=lambda row: row["cpu_seconds"])
        known = [r for r in runs if not r["error"] and r["figures"].get("tre_mm")]
        points = [
            (r["program"], r["cpu_seconds"], r["figures"]["tre_mm"]["after"]["mean"], r["program"] in PRESETS)
            for r in known
        ]
        out.append(
            {
                "pair": pair,
                "before": known[0]["figures"]["tre_mm"]["before"] if known else None,
                "rows": [cells(row) for row in runs],
                "plot": cost_accuracy_svg(points) if points else None,
                "failed": [(row["program"], row["error"]) for row in runs if row["error"]],
            }
        )
    return out


def programs(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, version, settings) of every program that ran."""
    return list({r["program"]: (r["program"], r["version"], r["settings"]) for r in content["runs"]}.values())


def markdown(content: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    out = []
    for table in tables(content):
        before = table["before"]
        start = f", TRE before {before['mean']:.2f} ± {before['sd']:.2f} mm" if before else ""
        out += [f"### {table['pair']}{start}", "", _line(HEAD), _line(["---"] * len(HEAD))]
        out += [*(_line(row) for row in table["rows"]), ""]
        out += [f"{name}: {' '.join(error.split())}\n" for name, error in table["failed"]]
    out += ["Settings:", ""]
    out += [f"- {name} {version}: {settings}." for name, version, settings in programs(content)]
    out += ["", f"Machine: {content['machine']}; CPU seconds are user and system of the whole process.", ""]
    return "\n".join([*out, *content["notes"], ""])


def _line(row: Any) -> str:
    return "| " + " | ".join(row) + " |"


def html(content: Mapping[str, Any]) -> str:
    """The page, with no outside reference."""
    return str(
        page_template("benchmark.html.jinja").render(
            head=HEAD,
            tables=tables(content),
            programs=programs(content),
            machine=content["machine"],
            notes=content["notes"],
            fixed_colour=FIXED_COLOUR,
            moving_colour=MOVING_COLOUR,
        )
    )
