"""Tables are laid out as Go's tabwriter lays them out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wherry.cli.table import tabulate, tabulate_text


def test_columns_are_as_wide_as_their_widest_cell_and_three_more() -> None:
    assert tabulate([["NAME", "SIZE"], ["a-long-name", "1"], ["b", "22"]]) == (
        "NAME          SIZE\na-long-name   1\nb             22\n"
    )


def test_columns_have_a_least_width_and_the_last_is_not_padded() -> None:
    assert tabulate([["A", "B", "C"], ["x", "y", "z"]]) == "A         B         C\nx         y         z\n"


def test_a_shorter_row_ends_a_column() -> None:
    text = "aaaaaaaaaaaaaa\tb\nx\nc\td\n"
    assert tabulate_text(text) == "aaaaaaaaaaaaaa   b\nx\nc         d\n"


def test_empty_cells_keep_their_place() -> None:
    assert tabulate([["A", "", "C"]]) == "A                   C\n"


@given(
    st.lists(st.lists(st.text(alphabet="ab é", max_size=12), min_size=2, max_size=4), min_size=1, max_size=6)
)
def test_cells_of_equal_rows_line_up(rows: list[list[str]]) -> None:
    width = min(len(row) for row in rows)
    rows = [row[:width] for row in rows]
    lines = tabulate(rows).splitlines()
    column = max(10, max(len(row[0]) for row in rows) + 3)
    assert all(line[:column].rstrip() == row[0].rstrip() for line, row in zip(lines, rows, strict=True))
