"""Reading json-file logs back, in the daemon: by time, from the end, across rotated files, and on as they
grow.

A log is written by another process while it is read. A last line without its newline is not there yet; the
file being read may be renamed (rotation) or removed, and is read to its end before the next one. What cannot
be parsed is passed over, since people edit these files.
"""

from __future__ import annotations

import json
import os
import zlib

from wherry.logs.driver import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_BLOCK = 1 << 18
_MAX_LINE = 1 << 20
"""An entry of PIECE bytes, each escaped to six, with its attrs, is well below."""
_NANOS = 1_000_000_000


class JsonFileReader:
    """See driver.py. One position in one container's log."""

    def __init__(self, path: str, *, since_ns: int = 0, until_ns: int = 0, tail: int = -1) -> None:
        self._path = path
        self._since_ns = since_ns
        self._until_ns = until_ns
        self._tail = tail
        self._started = False
        self._fd = -1
        self._rest = b""
        self.done = False
        """True once the entries are past `until_ns`: there will be no more."""

    def entries(self) -> Iterator[Entry]:
        """The entries from where this reader stands up to the present end. Call it again later to follow."""
        if not self._started:
            self._started = True
            yield from self._filtered(self._first_lines())
        while not self.done:
            if self._fd < 0 and not self._open(self._path):
                return
            yield from self._filtered(self._lines(self._fd))
            if self.done or not self._next_file():
                return

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # Files

    def _open(self, path: str) -> bool:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        self.close()
        self._fd = fd
        self._rest = b""
        return True

    def _next_file(self) -> bool:
        """If the file at hand was rotated away and read to its end, go on with the one after it."""
        mine = os.fstat(self._fd)
        newest = _stat(self._path)
        if newest is None:
            return False
        if _is_same(newest, mine):
            if mine.st_size < os.lseek(self._fd, 0, os.SEEK_CUR):  # truncated by hand
                os.lseek(self._fd, 0, os.SEEK_SET)
                self._rest = b""
                return mine.st_size > 0
            return False
        if os.lseek(self._fd, 0, os.SEEK_CUR) < mine.st_size:
            return True  # it grew between our last read and its rotation
        # Newer files have lower numbers. One that is gone (or packed, as only old ones are) has the newest
        # after it.
        following = self._path
        for path in _rotated(self._path):
            stat = _stat(path)
            if stat is not None and _is_same(stat, mine):
                return self._open(following)
            following = path
        return self._open(self._path)

    def _first_lines(self) -> Iterator[bytes]:
        """The lines of all files there are, or their last `tail`; the newest file is left to `entries`."""
        older = _rotated(self._path)
        if self._tail == 0:
            if self._open(self._path):
                self._rest = _seek_to_last_line(self._fd)
            return
        # The newest is opened first: what is rotated while older ones are read is then still found through
        # it.
        has_newest = self._open(self._path)
        wanted = self._tail
        chosen: list[tuple[str, int]] = []
        if wanted < 0 and self._since_ns and has_newest and _seek_to_time(self._fd, self._since_ns):
            return  # what is wanted begins within the newest file
        if wanted > 0 and has_newest:
            wanted -= _seek_to_tail(self._fd, wanted)
        for path in older:
            if wanted == 0:
                break
            skip = 0
            if wanted > 0:
                lines = sum(1 for _ in _lines_of(path))
                skip = max(0, lines - wanted)
                wanted = max(0, wanted - lines)
            chosen.append((path, skip))
        for path, skip in reversed(chosen):
            for number, line in enumerate(_lines_of(path)):
                if number >= skip:
                    yield line

    def _lines(self, fd: int) -> Iterator[bytes]:
        """The whole lines from the file's position to its end; the beginning of another is kept."""
        while block := os.read(fd, _BLOCK):
            lines = (self._rest + block).split(b"\n")
            self._rest = lines.pop()
            if len(self._rest) > _MAX_LINE:
                self._rest = b"\0"  # no entry of ours: its end will not parse either
            yield from lines

    def _filtered(self, lines: Iterator[bytes]) -> Iterator[Entry]:
        since, until = self._since_ns, self._until_ns
        for line in lines:
            entry = parse(line)
            if entry is None or entry.time_ns < since:
                continue
            if until and entry.time_ns > until:
                self.done = True
                return
            yield entry


def parse(line: bytes) -> Entry | None:
    """One line as an entry; None if it is none."""
    at = line.find(b'","stream":"', 8)
    if at > 0 and line.startswith(b'{"log":"') and line.endswith(b'Z"}'):
        text = line[8:at]
        backslash = text.find(b"\\")
        if backslash < 0 or (backslash == len(text) - 2 and text.endswith(b"\\n")):
            stream = line[at + 12 : at + 18]
            # 19: after the stream's name and its quote. Quotes in text are escaped: this can be no part of
            # it.
            if line.startswith(b',"time":"', at + 19) and stream in (b"stdout", b"stderr"):
                time_ns = parse_time(line[at + 28 : -2])
                if time_ns is not None:
                    return Entry(time_ns, stream.decode(), text if backslash < 0 else text[:-2] + b"\n", None)
    return _parse_slowly(line)


def _parse_slowly(line: bytes) -> Entry | None:
    try:
        value: Any = json.loads(line)
        time_ns = parse_time(value["time"].encode())
        text = value["log"].encode("utf-8", "replace")
        stream, attrs = value.get("stream", "stdout"), value.get("attrs")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if time_ns is None or not isinstance(stream, str) or not isinstance(attrs, dict | None):
        return None
    return Entry(time_ns, stream, text, attrs)


_days: dict[bytes, int] = {}
_times: dict[bytes, int | None] = {}
_REMEMBERED = 1000
"""Lines that came in one read have one time: most are known."""


def parse_time(text: bytes) -> int | None:
    """Nanoseconds since 1970 for RFC 3339 in UTC (`…Z`); None for anything else."""
    try:
        return _times[text]
    except KeyError:
        if len(_times) >= _REMEMBERED:
            _times.clear()
        time_ns = _times[text] = _parse_time(text)
        return time_ns


def _parse_time(text: bytes) -> int | None:
    day = _days.get(text[:10])
    try:
        if day is None:
            if len(_days) >= _REMEMBERED:
                _days.clear()
            day = _days[text[:10]] = _day_number(int(text[:4]), int(text[5:7]), int(text[8:10]))
        seconds = int(text[11:13]) * 3600 + int(text[14:16]) * 60 + int(text[17:19])
        if text[19:20] == b"." and text[-1:] == b"Z":
            return (day * 86400 + seconds) * _NANOS + int(text[20:-1].ljust(9, b"0")[:9])
        return (day * 86400 + seconds) * _NANOS if text[19:] == b"Z" else None
    except ValueError:
        return None


def _day_number(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        raise ValueError("no such day")
    year -= month <= 2
    month = (month + 9) % 12  # March is 0: the leap day comes last
    return year * 365 + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - 719468


def _rotated(path: str) -> list[str]:
    """The rotated files, newest first."""
    found: list[str] = []
    while len(found) < 1000:
        name = f"{path}.{len(found) + 1}"
        if os.path.exists(name):
            found.append(name)
        elif os.path.exists(f"{name}.gz"):
            found.append(f"{name}.gz")
        else:
            break
    return found


def _lines_of(path: str) -> Iterator[bytes]:
    """The whole lines of a rotated file, packed or not."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        unpacker = zlib.decompressobj(wbits=31) if path.endswith(".gz") else None
        rest = b""
        while block := os.read(fd, _BLOCK):
            if unpacker is not None:
                try:
                    block = unpacker.decompress(block)
                except zlib.error:
                    return
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            yield from lines
    finally:
        os.close(fd)


def _seek_to_tail(fd: int, count: int) -> int:
    """Stand before the last `count` whole lines, or at the beginning; how many whole lines lie ahead."""
    position = os.fstat(fd).st_size
    found = -1  # the newline that ends the last whole line ends no other
    while position > 0:
        length = min(_BLOCK, position)
        position -= length
        block = os.pread(fd, length, position)
        newlines = block.count(b"\n")
        if found + newlines >= count:
            end = len(block)
            for _ in range(count - found):
                end = block.rindex(b"\n", 0, end)
            os.lseek(fd, position + end + 1, os.SEEK_SET)
            return count
        found += newlines
    os.lseek(fd, 0, os.SEEK_SET)
    return found + 1


def _seek_to_time(fd: int, since_ns: int) -> bool:
    """Stand before the first entry that is not older than `since_ns`, give or take a block.

    False, and at the beginning, if the first entry is wanted, so that older files may hold some too. Entries are
    in the order of their times, as far as the clock was.
    """
    low, high = 0, os.fstat(fd).st_size
    while high - low > _BLOCK:
        middle = (low + high) // 2
        line = os.pread(fd, _MAX_LINE, middle).partition(b"\n")[2].partition(b"\n")[0]
        entry = parse(line)
        if entry is None:
            break  # not ours to understand: read it all from here
        if entry.time_ns < since_ns:
            low = middle
        else:
            high = middle
    if low == 0:
        first = parse(os.pread(fd, _MAX_LINE, 0).partition(b"\n")[0])
        os.lseek(fd, 0, os.SEEK_SET)
        return first is not None and first.time_ns < since_ns
    os.lseek(fd, low + os.pread(fd, _MAX_LINE, low).find(b"\n") + 1, os.SEEK_SET)
    return True


def _seek_to_last_line(fd: int) -> bytes:
    """Stand at the end; the beginning of a line that is being written just now."""
    _seek_to_tail(fd, 0)
    rest = os.read(fd, _MAX_LINE)
    return rest[rest.rfind(b"\n") + 1 :]


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_dev) == (other.st_ino, other.st_dev)
