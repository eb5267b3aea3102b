"""What the benchmark makes of its samples: medians, ratios, goals, and the table."""

from __future__ import annotations

import json

import pytest
from bench import report
from bench.rows import TIMINGS, Goal, Row


def row(goal: Goal, ours: list[float], theirs: list[float]) -> Row:
    return Row("run", "a run", "ms", {"wherry": ours, "dockerd": theirs}, goal)


@pytest.mark.parametrize(
    ("goal", "ours", "theirs", "met"),
    [
        (Goal(ratio=6), [10, 30, 20], [120, 120, 120], True),
        (Goal(ratio=6), [21], [120], False),
        (Goal(limit=20), [20], [], True),
        (Goal(limit=20), [20.1], [1], False),
        (Goal(limit=0), [0], [40], True),
        (Goal(limit=0), [1], [0], False),
        (Goal(), [1], [2], None),
        (Goal(ratio=6), [], [120], None),
        (Goal(ratio=6), [10], [], None),
        (Goal(limit=20), [], [1], None),
    ],
)
def test_goals(goal: Goal, ours: list[float], theirs: list[float], met: bool | None) -> None:
    assert row(goal, ours, theirs).is_met() is met


def test_ratio_is_that_of_the_medians() -> None:
    assert row(Goal(), [1, 2, 300], [8, 6, 4000]).ratio() == 4
    assert row(Goal(), [0], [5]).ratio() is None


def test_table_names_engines_in_their_order_and_says_what_is_met() -> None:
    rows = [
        row(Goal(ratio=6, hoped=8), [10, 20, 12], [120, 110, 130]),
        Row(
            "bundle",
            "a bundle",
            "ms",
            {"runc": [5], "wherry-runtime": [10]},
            Goal(),
            "wherry-runtime",
            "runc",
        ),
        Row("growth", "grown", "", {"wherry": [3]}, Goal(limit=0)),
    ]
    lines = report.table({"date": "today"}, rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert cells == [
        ["", "wherry", "dockerd", "wherry-runtime", "runc", "ratio", "goal", "met"],
        ["a run", "12 ms (10–20, 3)", "120 ms (110–130, 3)", "", "", "10.0", "≥ 6 (8)", "yes"],
        ["a bundle", "", "", "10 ms", "5 ms", "0.5", "", ""],
        ["grown", "3", "", "", "", "", "≤ 0", "NO"],
    ]
    assert "- date: today" in lines


def test_results_are_kept(tmp_path: object) -> None:
    folder = f"{tmp_path}/results"
    report.write(folder, {"date": "today"}, [row(Goal(ratio=6), [10.12345], [120])])
    with open(f"{folder}/samples.json") as file:
        kept = json.load(file)
    assert kept["rows"][0]["samples"] == {"wherry": [10.123], "dockerd": [120]}
    for name, start in (("chart.svg", b"<?xml"), ("chart.png", b"\x89PNG"), ("table.md", b"# wherry")):
        with open(f"{folder}/{name}", "rb") as file:
            assert file.read(len(start)) == start


def test_rows_have_names_of_their_own() -> None:
    names = [timing.name for timing in TIMINGS]
    assert len(names) == len(set(names))
