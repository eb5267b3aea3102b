"""The driver local's records, as Docker 20.10 and later write them: each between two copies of its length.

    length (4 bytes, big-endian) · LogEntry (protobuf) · the length again, so that one can read backwards

    LogEntry: 1 source (string) · 2 time_nano (varint) · 3 line (bytes, no newline) · 4 partial (bool)
              5 partial_log_metadata: 1 last (bool) · 2 id (string) · 3 ordinal (varint)

A field at its default value is left out. Reading is for the daemon, encoding for the shim: nothing here is costly to
load.
"""

from __future__ import annotations

import os
import struct

from wherry.logs.driver import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.logs.lines import Message

MAX_RECORD = 1 << 20
_BLOCK = 1 << 18
_LENGTH = struct.Struct(">I")
_STREAMS = {b"stdout": "stdout", b"stderr": "stderr"}


def varint(number: int) -> bytes:
    """Protobuf's: seven bits a byte, lowest first, all but the last with the high bit set."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(message: Message) -> bytes:
    """One record."""
    body = _head(message.stream, message.time_ns)
    if message.line:
        body += b"\x1a" + varint(len(message.line)) + message.line
    if message.part is not None:
        identity, number, is_last = message.part
        name = identity.encode()
        details = (
            (b"\x08\x01" if is_last else b"") + b"\x12" + varint(len(name)) + name + b"\x18" + varint(number)
        )
        body += b"\x20\x01\x2a" + varint(len(details)) + details
    length = _LENGTH.pack(len(body))
    return length + body + length


def encode_lines(stream: str, lines: list[bytes], time_ns: int) -> bytes:
    """The records of whole lines, without their newlines, that arrived together: little work for each."""
    head = _head(stream, time_ns)
    around: dict[int, tuple[bytes, bytes]] = {}
    for size in set(map(len, lines)):
        start = head + b"\x1a" + varint(size) if size else head
        length = _LENGTH.pack(len(start) + size)
        around[size] = (length + start, length)
    pieces: list[bytes] = []
    for line in lines:
        start, end = around[len(line)]
        pieces += (start, line, end)
    return b"".join(pieces)


def next_end(records: bytes, position: int) -> int:
    """Where the record ends that has the byte at `position`."""
    end = 0
    while end <= position:
        end += _LENGTH.unpack_from(records, end)[0] + 8
    return end


def _head(stream: str, time_ns: int) -> bytes:
    name = stream.encode()
    return b"\x0a" + varint(len(name)) + name + (b"\x10" + varint(time_ns) if time_ns else b"")


# Reading


def decode(data: bytes) -> tuple[list[Entry], bytes]:
    """The entries of the whole records in `data`, and what is left after the last of them."""
    found: list[Entry] = []
    at, end = 0, len(data)
    unpack = _LENGTH.unpack_from
    heads: dict[bytes, tuple[int, str] | None] = {}
    while at + 8 <= end:
        (size,) = unpack(data, at)
        after = at + size + 8
        if size > MAX_RECORD or (after <= end and data[at : at + 4] != data[after - 4 : after]):
            at = _resynchronise(data, at + 1)  # overwritten by somebody, or cut by a power failure
            continue
        if after > end:
            break
        # Records of one read begin alike: 18 bytes are "stdout" or "stderr" and a time of these centuries.
        start = data[at + 4 : at + 22]
        if start not in heads:
            heads[start] = _parse_start(start)
        head = heads[start]
        body = at + 23
        if head is not None and size > 18 and data[at + 22] == 0x1A:
            length = data[body]
            if length > 127:
                body += 1
                length = length & 127 | data[body] << 7
            if length < 16384 and body + 1 + length == after - 4:
                found.append(Entry(head[0], head[1], data[body + 1 : after - 4] + b"\n", None))
                at = after
                continue
        entry = parse(data[at + 4 : after - 4])
        if entry is not None:
            found.append(entry)
        at = after
    return found, data[at:]


def parse(record: bytes) -> Entry | None:
    """One LogEntry; None if it is none."""
    fields = _fields(record)
    if fields is None:
        return None
    name, line, time_ns = fields.get(1, b""), fields.get(3, b""), fields.get(2, 0)
    stream = _STREAMS.get(name) if isinstance(name, bytes) else None
    if stream is None or not isinstance(line, bytes) or not isinstance(time_ns, int):
        return None
    is_whole = not fields.get(4)
    if not is_whole and isinstance(details := fields.get(5, b""), bytes):
        is_whole = bool((_fields(details) or {}).get(1))
    return Entry(time_ns, stream, line + b"\n" if is_whole else line, None)


def seek_to_tail(fd: int, count: int) -> int:
    """See reading.py."""
    end = os.fstat(fd).st_size
    position, found = end, 0
    while found < count and position > 0:
        start = _start_before(fd, position)
        if start < 0:
            return _seek_slowly(fd, count)
        position, found = start, found + 1
    os.lseek(fd, position, os.SEEK_SET)
    return found


def seek_to_time(fd: int, since_ns: int) -> bool:
    """See reading.py. Goes back from the end, as far as is wanted."""
    position = os.fstat(fd).st_size
    while position > 0:
        start = _start_before(fd, position)
        entry = parse(os.pread(fd, position - start, start)[4:-4]) if start >= 0 else None
        if entry is None:
            position = 0  # not ours to understand: read it all from here
        elif entry.time_ns < since_ns:
            os.lseek(fd, position, os.SEEK_SET)
            return True
        else:
            position = start
    os.lseek(fd, 0, os.SEEK_SET)
    return False


def seek_to_end(fd: int) -> bytes:
    """See reading.py."""
    seek_to_tail(fd, 0)
    if _start_before(fd, os.lseek(fd, 0, os.SEEK_CUR)) < 0:
        _seek_slowly(fd, 0)
    return b""


def _start_before(fd: int, end: int) -> int:
    """Where the whole record begins that ends at `end`; -1 if none does."""
    if end == 0:
        return 0
    tail = os.pread(fd, 4, end - 4) if end >= 8 else b""
    if len(tail) < 4:
        return -1
    start = end - _LENGTH.unpack(tail)[0] - 8
    return start if start >= 0 and os.pread(fd, 4, start) == tail else -1


def _seek_slowly(fd: int, count: int) -> int:
    """The same as `seek_to_tail` from the beginning, for a file that ends in the middle of a record."""
    ends = [0]
    base, rest = 0, b""
    os.lseek(fd, 0, os.SEEK_SET)
    while block := os.read(fd, _BLOCK):
        data = rest + block
        at = 0
        while at + 8 <= len(data):
            size = _LENGTH.unpack_from(data, at)[0]
            if size > MAX_RECORD:
                at = _resynchronise(data, at + 1)
                continue
            if at + size + 8 > len(data):
                break
            at += size + 8
            ends.append(base + at)
        base, rest = base + at, data[at:]
    wanted = min(count, len(ends) - 1)
    os.lseek(fd, ends[len(ends) - 1 - wanted], os.SEEK_SET)
    return wanted


def _resynchronise(data: bytes, at: int) -> int:
    """Where the next record may begin."""
    found = data.find(b"\x0a\x06std", at + 4)
    return found - 4 if found >= 0 else max(at, len(data) - 8)


def _parse_start(start: bytes) -> tuple[int, str] | None:
    fields = _fields(start)
    if fields is None or len(start) < 18 or set(fields) != {1, 2}:
        return None
    name, time_ns = fields[1], fields[2]
    if not isinstance(name, bytes) or not isinstance(time_ns, int) or name not in _STREAMS:
        return None
    return time_ns, _STREAMS[name]


def _fields(data: bytes) -> dict[int, int | bytes] | None:
    """A protobuf message's fields by number; None if it is none."""
    found: dict[int, int | bytes] = {}
    at = 0
    try:
        while at < len(data):
            key, at = _read_varint(data, at)
            if key & 7 == 0:
                found[key >> 3], at = _read_varint(data, at)
            elif key & 7 == 2:
                length, at = _read_varint(data, at)
                if at + length > len(data):
                    return None
                found[key >> 3] = data[at : at + length]
                at += length
            else:
                return None
    except (IndexError, ValueError):
        return None
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("too long a number")
