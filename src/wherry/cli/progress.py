"""The engine's progress messages: bars that are redrawn in place on a terminal, plain lines elsewhere.

Messages that have an id share the last lines of the screen, one line each; anything without one ends that
block.
"""

from __future__ import annotations

import os
import sys

from wherry.cli import units
from wherry.cli.session import Exit, is_terminal
from wherry.client.api import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.client.http import Response

BAR = 50
WIDE = 110
DEFAULT_WIDTH = 200


def bar(detail: dict[str, Any], width: int, now: float) -> str:
    """`[====>     ]  1.2MB/3.4MB` for one progressDetail; empty where it says nothing."""
    current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
    kind = str(detail.get("units") or "")
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{current} {kind}" if kind else f"{units.human_size(current):>8}"
    filled = min(int(current / total * 100) // 2, BAR)
    box = f"[{'=' * filled}>{' ' * (BAR - filled)}] " if width > WIDE else ""
    numbers = ""
    if not detail.get("hidecounts"):
        if kind:
            numbers = f"{current}/{total} {kind}" if current <= total else f"{current} {kind}"
        else:
            numbers = f"{units.human_size(current):>8}"
            if current <= total:
                numbers += f"/{units.human_size(total)}"
    start = int(detail.get("start") or 0)
    left = ""
    if current > 0 and start > 0 and filled < BAR and width > 50:
        left = f" {_span(int((total - current) * ((now - start) / current)))}"
    return box + numbers + left


def _span(seconds: int) -> str:
    hours, rest = divmod(max(seconds, 0), 3600)
    minutes, seconds = divmod(rest, 60)
    text = f"{minutes}m{seconds}s" if hours or minutes else f"{seconds}s"
    return f"{hours}h{text}" if hours else text


class Screen:
    """Draws messages: redrawn in place on a `terminal`, else in plain lines."""

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        terminal: bool,
        width: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._write = write
        self._terminal = terminal
        self._width = width
        self._clock = clock
        self._lines: dict[str, int] = {}

    def draw(self, message: dict[str, Any]) -> None:
        """Show one message."""
        detail = message.get("progressDetail")
        name = str(message.get("id") or "")
        text = ""
        down = 0
        if name and (detail is not None or message.get("progress")):
            if name not in self._lines:
                self._lines[name] = len(self._lines)
                if self._terminal:
                    text = "\n"
            down = len(self._lines) - self._lines[name]
            if self._terminal:
                text += f"\x1b[{down}A"
        else:
            self._lines = {}
        text += self._line(message, detail, name)
        if name and self._terminal and down:
            text += f"\x1b[{down}B"
        if text:
            self._write(text)

    def _line(self, message: dict[str, Any], detail: Any, name: str) -> str:
        shown = bar(detail, self._width(), self._clock()) if isinstance(detail, dict) else ""  # pyright: ignore[reportUnknownArgumentType]
        stream = str(message.get("stream") or "")
        head = end = ""
        if self._terminal and not stream and detail is not None:
            head, end = "\x1b[2K\r", "\r"
        elif shown:
            return ""  # no bars in a pipe
        if name:
            head += f"{name}: "
        status = str(message.get("status") or "")
        if detail is not None and self._terminal:
            return f"{head}{status} {shown}{end}"
        if message.get("progress"):
            return f"{head}{status} {message['progress']}{end}"
        if stream:
            return f"{head}{stream}{end}"
        return f"{head}{status}{end}\n"


def show_progress(response: Response, fd: int = 1, *, quiet: bool = False) -> None:
    """Draw a stream of messages to stdout or stderr. Raises Exit with the engine's message of failure."""
    import time

    stream = sys.stderr if fd == 2 else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    def width() -> int:
        try:
            return os.get_terminal_size(fd).columns or DEFAULT_WIDTH
        except OSError:
            return DEFAULT_WIDTH

    screen = Screen(write, terminal=is_terminal(fd), width=width, clock=time.time)
    for message in messages(response):
        if not isinstance(message, dict):
            continue
        fields: dict[str, Any] = message  # pyright: ignore[reportUnknownVariableType]
        problem = fields.get("errorDetail") or fields.get("error")
        if problem:
            raise Exit(1, str(problem.get("message", problem)) if isinstance(problem, dict) else str(problem))  # pyright: ignore
        if fields.get("aux") is None and not quiet:
            screen.draw(fields)
