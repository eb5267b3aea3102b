r"""json-file's records, read: a JSON object a line. What cannot be parsed is passed over, since people edit these files."""

from __future__ import annotations

import json
import os
import re

from wherry.logs.driver import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BLOCK = 1 << 18
MAX_RECORD = 1 << 20
"""An entry of PIECE bytes, each escaped to six, with its attrs, is well below."""
_NANOS = 1_000_000_000
_PLAIN = re.compile(rb'\{"log":"([^"\\]*)(\\n)?","stream":"(stdout|stderr)","time":"([^"]*Z)"\}\n')
"""An entry without escapes but its newline."""
_STREAMS = {b"stdout": "stdout", b"stderr": "stderr"}
_ENDS = {b"\\n": b"\n", b"": b""}


def decode(data: bytes) -> tuple[list[Entry], bytes]:
    """The entries of the whole lines in `data`, and what is left after the last of them."""
    plain = _PLAIN.findall(data)
    if len(plain) == data.count(b"\n"):
        found: list[Entry] = []
        last, time_ns = b"", None
        for text, end, stream, time in plain:
            if time != last:
                last, time_ns = time, parse_time(time)
            if time_ns is not None:
                found.append(Entry(time_ns, _STREAMS[stream], text + _ENDS[end], None))
    else:
        found = [entry for entry in map(parse, data.split(b"\n")[:-1]) if entry is not None]
    rest = data[data.rfind(b"\n") + 1 :]
    return found, rest if len(
        rest
    ) <= MAX_RECORD else b"\0"  # no entry of ours: its end will not parse either


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


def seek_to_tail(fd: int, count: int) -> int:
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


def seek_to_time(fd: int, since_ns: int) -> bool:
    """Stand before the first entry that is not older than `since_ns`, give or take a block.

    False, and at the beginning, if the first entry is wanted, so that older files may hold some too. Entries are
    in the order of their times, as far as the clock was.
    """
    low, high = 0, os.fstat(fd).st_size
    while high - low > _BLOCK:
        middle = (low + high) // 2
        line = os.pread(fd, MAX_RECORD, middle).partition(b"\n")[2].partition(b"\n")[0]
        entry = parse(line)
        if entry is None:
            break  # not ours to understand: read it all from here
        if entry.time_ns < since_ns:
            low = middle
        else:
            high = middle
    if low == 0:
        first = parse(os.pread(fd, MAX_RECORD, 0).partition(b"\n")[0])
        os.lseek(fd, 0, os.SEEK_SET)
        return first is not None and first.time_ns < since_ns
    os.lseek(fd, low + os.pread(fd, MAX_RECORD, low).find(b"\n") + 1, os.SEEK_SET)
    return True


def seek_to_end(fd: int) -> bytes:
    """Stand at the end; the beginning of a line that is being written just now."""
    seek_to_tail(fd, 0)
    rest = os.read(fd, MAX_RECORD)
    return rest[rest.rfind(b"\n") + 1 :]
