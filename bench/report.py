"""Rows to a table, a chart and raw samples."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from bench.engines import MAKERS
from bench.rows import Row

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")

Facts = Mapping[str, str]
"""What was measured where, by name."""


def write(folder: str, facts: Facts, rows: Sequence[Row]) -> str:
    """Keep samples.json, table.md, chart.svg and chart.png in the folder; the table's text."""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/samples.json", "w") as file:
        values = [dataclasses.asdict(row) for row in rows]
        for value in values:
            value["samples"] = {
                name: [round(v, 3) for v in found] for name, found in value["samples"].items()
            }
        json.dump({**facts, "rows": values}, file, separators=(",", ":"))
        file.write("\n")
    text = table(facts, rows)
    with open(f"{folder}/table.md", "w") as file:
        file.write(text)
    chart(folder, facts, rows)
    return text


def table(facts: Facts, rows: Sequence[Row]) -> str:
    found = {name for row in rows for name in row.samples}
    engines = [name for name in MAKERS if name in found]
    body = [["", *engines, "ratio", "goal", "met"]]
    for row in rows:
        cells = [_cell(row, name) for name in engines]
        body.append([row.label, *cells, _ratio(row), _goal(row), _met(row)])
    widths = [max(len(line[column]) for line in body) for column in range(len(body[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in body
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    head = [f"- {name}: {value}" for name, value in facts.items()]
    note = (
        "Medians, with smallest–largest and the number of samples; engines took turns within each row. Ratio: dockerd's\n"
        "median (runc's for the runtime alone) divided by wherry's, so more is better for wherry."
    )
    return "\n".join(["# wherry beside other engines", "", *head, "", *lines, "", note, ""])


def _cell(row: Row, engine: str) -> str:
    values = row.samples.get(engine)
    if not values:
        return ""
    text = f"{show(statistics.median(values))} {row.unit}".rstrip()
    return text if len(values) == 1 else f"{text} ({show(min(values))}–{show(max(values))}, {len(values)})"


def _ratio(row: Row) -> str:
    ratio = row.ratio()
    return "" if ratio is None or not row.unit else f"{ratio:.1f}"


def _goal(row: Row) -> str:
    goal = row.goal
    hoped = f" ({goal.hoped:g})" if goal.hoped else ""
    if goal.limit is not None:
        return f"≤ {goal.limit:g} {row.unit}".rstrip() + hoped
    return f"≥ {goal.ratio:g}{hoped}" if goal.ratio else ""


def _met(row: Row) -> str:
    met = row.is_met()
    return "" if met is None else "yes" if met else "NO"


def show(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"


def chart(folder: str, facts: Facts, rows: Sequence[Row]) -> None:
    """A bar for each row that has a ratio, with the goal as a line across it."""
    from matplotlib import pyplot

    plt: Any = pyplot  # whose types say little
    plt.switch_backend("Agg")
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "wherry", "svg.fonttype": "none"})

    picked = [(row, ratio) for row in rows if row.unit and (ratio := row.ratio()) is not None]
    if not picked:
        return
    figure, axes = plt.subplots(figsize=(10, 0.42 * len(picked) + 1.5))
    widest = max(
        max(ratio, row.goal.hoped, row.goal.ratio) for row, ratio in picked if row.goal.limit is None or ratio
    )
    for place, (row, ratio) in enumerate(reversed(picked)):
        met = row.is_met()
        axes.barh(
            place, ratio, height=0.62, color="#c23b22" if met is False else "#2a6fbb" if met else "#8aa8c7"
        )
        ours, theirs = row.median(row.ours) or 0.0, row.median(row.reference) or 0.0
        axes.text(
            ratio, place, f"  {ratio:.1f}×  {show(ours)} / {show(theirs)} {row.unit}", va="center", fontsize=8
        )
        if row.goal.ratio:
            axes.plot([row.goal.ratio] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.8)
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(picked)), [row.label for row, _ in reversed(picked)])
    axes.set_xlim(0, widest * 1.3)
    axes.set_xlabel(
        "dockerd divided by wherry (runc by wherry-runtime in the last): more is better for wherry"
    )
    axes.set_title(
        f"wherry beside {facts.get('dockerd', 'dockerd')}, {facts.get('date', '')}\n"
        f"{facts.get('machine', '')}, load average {facts.get('load average', '')}\n"
        "blue: goal met, red: not met, pale: no goal; black line: goal, where it is a ratio",
        fontsize=9, loc="left",
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(f"{folder}/chart.svg", metadata={"Date": None})
    figure.savefig(f"{folder}/chart.png", dpi=120)
    plt.close(figure)
