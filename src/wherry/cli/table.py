"""Columns of text, laid out as Go's tabwriter does it: as wide as the widest cell and the padding."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def tabulate(rows: Sequence[Sequence[str]], *, minimum: int = 10, padding: int = 3) -> str:
    """Lines for rows of cells. The last cell of a row is not padded, and does not widen its column.

    A column block ends at a row that is too short to reach it, as in Go's tabwriter.
    """
    widths: list[list[int]] = [[0] * max(len(row) - 1, 0) for row in rows]
    deepest = max((len(row) - 1 for row in rows), default=0)
    for column in range(deepest):
        start = 0
        while start < len(rows):
            if len(rows[start]) - 1 <= column:
                start += 1
                continue
            end = start
            while end < len(rows) and len(rows[end]) - 1 > column:
                end += 1
            widest = max(len(rows[index][column]) for index in range(start, end))
            width = max(widest + padding, minimum)
            for index in range(start, end):
                widths[index][column] = width
            start = end
    lines: list[str] = []
    for row, row_widths in zip(rows, widths, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, row_widths, strict=False)]
        lines.append("".join(cells) + (row[-1] if row else "") + "\n")
    return "".join(lines)


def tabulate_text(text: str, *, minimum: int = 10, padding: int = 3) -> str:
    """`tabulate` for text whose cells are parted by tabs."""
    lines = text.split("\n")
    last = lines.pop()
    rows = [line.split("\t") for line in lines]
    return tabulate(rows, minimum=minimum, padding=padding) + last
