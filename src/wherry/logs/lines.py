"""Output cut into messages as Docker cuts it: a message a line, pieces of PIECE bytes for a line that is longer.

A piece ends before a UTF-8 character rather than inside. Pieces of one line have one id, one time (that of the first) and
count from 1; only the piece that ends the line is marked as the last. A beginning that never got its newline
is a piece without a last one.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    Part = tuple[str, int, bool]
    """A piece's id, its number from 1, and whether it is the last."""

PIECE = 16384


class Message:
    """One line, without its newline, or one piece of it."""

    __slots__ = ("line", "part", "stream", "time_ns")

    def __init__(self, time_ns: int, stream: str, line: bytes, part: Part | None = None) -> None:
        self.time_ns = time_ns
        self.stream = stream
        self.line = line
        self.part = part

    @property
    def is_whole(self) -> bool:
        """True if its newline follows."""
        return self.part is None or self.part[2]


class Lines:
    """One stream's lines."""

    __slots__ = ("_id", "_number", "_rest", "_stream", "_time_ns")

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._rest = b""
        self._id = ""
        self._number = 0
        self._time_ns = 0

    @property
    def is_within_line(self) -> bool:
        """True if something of a line that has not ended is known, or was already given as a piece."""
        return bool(self._rest or self._number)

    def feed(self, data: bytes | memoryview, time_ns: int) -> list[Message]:
        """The messages that `data`, which arrived at `time_ns`, completes."""
        found: list[Message] = []
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            rest_of_line = self._pieces(line, time_ns, found) if len(line) >= PIECE else line
            if self._number:
                found.append(self._piece(rest_of_line, time_ns, is_last=True))
            else:
                found.append(Message(time_ns, self._stream, rest_of_line))
        self._rest = self._pieces(rest, time_ns, found)
        return found

    def end(self, time_ns: int) -> list[Message]:
        """What is left, now that nothing more comes."""
        rest, self._rest = self._rest, b""
        return [self._piece(rest, time_ns, is_last=False)] if rest else []

    def _pieces(self, line: bytes, time_ns: int, found: list[Message]) -> bytes:
        """Add the pieces that `line` fills to `found`; what is left of it."""
        while len(line) >= PIECE:
            piece = cut_piece(line)
            found.append(self._piece(piece, time_ns, is_last=False))
            line = line[len(piece) :]
        return line

    def _piece(self, line: bytes, time_ns: int, *, is_last: bool) -> Message:
        if not self._number:
            self._id = os.urandom(32).hex()
            self._time_ns = time_ns
        self._number += 1
        message = Message(self._time_ns, self._stream, line, (self._id, self._number, is_last))
        if is_last:
            self._number = 0
        return message


def cut_piece(line: bytes) -> bytes:
    """The first PIECE bytes of `line`, less a character that does not end within them."""
    for back in (1, 2, 3):
        byte = line[PIECE - back]
        if byte & 0xC0 != 0x80:  # the character's first byte, which tells its length
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return line[: PIECE - back] if length > back else line[:PIECE]
    return line[:PIECE]


def is_within_piece(lines: bytes) -> bool:
    """True if every line is shorter than PIECE. A few searches: each goes as far as one piece."""
    start, end = 0, len(lines)
    while end - start > PIECE:
        newline = lines.rfind(b"\n", start, start + PIECE)
        if newline < 0:
            return False
        start = newline + 1
    return True
