"""`run --trace`: where the time from start to exec went, as a table with bars."""

from __future__ import annotations

import os

from wherry.client.answers import items
from wherry.client.api import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.cli.session import Session

BAR = 40


def trace_lines(steps: Sequence[tuple[str, float]], *, colour: bool) -> str:
    """The table: each step's end, how long it took since the one before, and its place on a line."""
    from wherry.cli.table import tabulate

    total = max((at for _, at in steps), default=0.0)
    rows = [["STEP", "AT", "TOOK", ""]]
    before = 0.0
    for name, at in sorted(steps, key=lambda step: step[1]):
        start = round(before / total * BAR) if total else 0
        end = max(round(at / total * BAR) if total else 0, start + 1)
        bar = "█" * (end - start)
        if colour:
            bar = f"\x1b[36m{bar}\x1b[0m"
        rows.append([name, f"{at:.2f} ms", f"{at - before:.2f} ms", " " * start + bar])
        before = at
    return "".join(f"{line.rstrip()}\n" for line in tabulate(rows).splitlines())


def show_trace(session: Session, path: str) -> None:
    """Fetch and print a container's start trace on standard error, so that its output can still be piped."""
    from wherry.cli.session import is_terminal

    try:
        answer = session.client.get(f"{path}/trace")
    except ApiError as exc:
        session.err(f"no trace of the start: {exc}\n")
        return
    steps = [(str(step["Name"]), float(step["At"])) for step in items(answer, "Steps")]
    if not steps:
        session.err("no trace of the start: the engine recorded no steps\n")
        return
    colour = is_terminal(2) and not session.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    session.err("\n" + trace_lines(steps, colour=colour))
