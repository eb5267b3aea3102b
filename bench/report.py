"""Samples to a table and a chart."""

from __future__ import annotations

import json
import os
import statistics
from typing import Any

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")

Row = dict[str, Any]
"""name, label, unit, samples by engine, target (ratio) or limit (a value of ours), better: "less"."""


def median(values: list[float]) -> float:
    return statistics.median(values)


def write(machine: dict[str, str], rows: list[Row]) -> str:
    """Keep raw samples, table and chart under results/; the table as text."""
    os.makedirs(FOLDER, exist_ok=True)
    with open(f"{FOLDER}/samples.json", "w") as file:
        json.dump({"machine": machine, "rows": rows}, file, indent=1)
        file.write("\n")
    text = table(machine, rows)
    with open(f"{FOLDER}/table.md", "w") as file:
        file.write(text)
    chart(rows, f"{FOLDER}/chart.svg")
    return text


def table(machine: dict[str, str], rows: list[Row]) -> str:
    others = sorted({name for row in rows for name in row["samples"]} - {"wherry", "dockerd"})
    head = ["", "wherry", "dockerd", *others, "dockerd ÷ wherry", "to reach"]
    lines = ["# wherry beside others", "", *(f"- {key}: {value}" for key, value in machine.items()), ""]
    lines += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [row["label"]]
        for name in ("wherry", "dockerd", *others):
            values = row["samples"].get(name)
            cells.append(
                f"{show(median(values))} {row['unit']} ({show(min(values))}–{show(max(values))})"
                if values
                else ""
            )
        ours, theirs = row["samples"].get("wherry"), row["samples"].get("dockerd")
        cells.append(
            f"**{median(theirs) / max(median(ours), 1e-9):.1f}**" if ours and theirs and median(ours) else ""
        )
        limit = f"≤ {row['limit']:g} {row['unit']}" if row.get("limit") else ""
        cells.append(f"{row['target']:g}" if row.get("target") else limit)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [*lines, "", "Medians, with smallest and largest; engines took turns within each row.", ""]
    )


def show(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}"


def chart(rows: list[Row], path: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    picked = [row for row in rows if row["samples"].get("wherry") and row["samples"].get("dockerd")]
    picked = [row for row in picked if median(row["samples"]["wherry"]) > 0]
    if not picked:
        return
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(picked) + 1.4))
    for place, row in enumerate(reversed(picked)):
        ours, theirs = median(row["samples"]["wherry"]), median(row["samples"]["dockerd"])
        axes.barh(place, theirs / ours, color="#2a7de1")
        text = f"{theirs / ours:.1f}×   ({show(ours)} against {show(theirs)} {row['unit']})"
        axes.text(theirs / ours, place, f"  {text}", va="center", fontsize=8)
        if row.get("target"):
            axes.plot([row["target"]] * 2, [place - 0.4, place + 0.4], color="#d62728", linewidth=2)
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(picked)), [row["label"] for row in reversed(picked)], fontsize=8)
    axes.set_xlim(0, axes.get_xlim()[1] * 1.35)
    axes.set_xlabel("dockerd ÷ wherry (more is better for wherry); red: to reach", fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
