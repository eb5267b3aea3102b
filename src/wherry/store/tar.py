"""Reading tar archives from a stream: ustar, pax, GNU and V7 headers (POSIX pax(1); GNU tar manual, "Standard").

The archive is hostile. Every length is bounded before memory is taken for it; numbers must be numbers; a negative or
absurd size is refused at once. What follows Go's `archive/tar`, which wrote most layers: links, devices and
directories have no content whatever their size field says; global pax headers are ignored.

Bytes come in blocks of a multiple of 512 from `Feed`, which reads (decompresses) and hashes one thread ahead. Whoever
keeps a record of the archive (`store/record.py`) gets every byte that is not a file's content through `keep`.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import zlib
from collections.abc import Callable
from queue import Queue
from typing import BinaryIO, Final, Protocol

from wherry.errors import InvalidParameter

BLOCK: Final = 512
MAX_PAX_BYTES: Final = 1 << 20
MAX_NAME_BYTES: Final = 4096  # PATH_MAX
MAX_FILE_BYTES: Final = 1 << 43
MAX_SPARSE_PIECES: Final = 1 << 16
_CHUNK: Final = 1 << 20
_MAX_NS: Final = 2**63 - 1

REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZEROS: Final = bytes(BLOCK)
_HAS_CONTENT: Final = frozenset((REGULAR, b"\0", b"7", b"S"))
_LONG_NAME, _LONG_LINK, _PAX, _PAX_SOLARIS, _PAX_GLOBAL, _SPARSE = b"L", b"K", b"x", b"X", b"g", b"S"
_XATTR: Final = b"SCHILY.xattr."


class Entry:
    """One member. Names are bytes as they were, without trailing slashes stripped or anything resolved."""

    __slots__ = (
        "gid",
        "link",
        "major",
        "minor",
        "mode",
        "mtime_ns",
        "name",
        "pieces",
        "size",
        "type",
        "uid",
        "xattrs",
    )

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    """Of the content in the archive."""
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    pieces: tuple[int, list[tuple[int, int]]] | None
    """Of a sparse file: its true size, and where each run of the content goes: (offset, length)."""


class Blocks(Protocol):
    """Where a TarReader has its bytes from."""

    def next(self) -> memoryview:
        """The next block, of a multiple of 512 bytes unless it is the last; empty at the end."""
        ...


class Feed:
    """The archive in blocks, read and hashed by a thread of its own. Close it: `with Feed(source) as feed:`."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._full: Queue[tuple[bytearray, int] | BaseException] = Queue()
        self._free: Queue[bytearray | None] = Queue()
        self._hash = hashlib.sha256()
        self._current: bytearray | None = None
        self._ended = False
        for _ in range(3):
            self._free.put(bytearray(_CHUNK))
        self._thread = threading.Thread(target=self._run, name="layer-feed", daemon=True)
        self._thread.start()

    def next(self) -> memoryview:
        """The next block; empty at the end. The one before it is taken back."""
        if self._ended:
            return memoryview(b"")
        if self._current is not None:
            self._free.put(self._current)
            self._current = None
        got = self._full.get()
        if isinstance(got, BaseException):
            self._ended = True
            raise got
        buffer, length = got
        self._current = buffer
        self._ended = length < len(buffer)
        return memoryview(buffer)[:length]

    def digest(self) -> str:
        """`sha256:…` of everything, once `next` has given the last block."""
        return "sha256:" + self._hash.hexdigest()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *error: object) -> None:
        self._free.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            length = _CHUNK
            while length == _CHUNK:
                buffer = self._free.get()
                if buffer is None:
                    return
                length = _fill(self._source, buffer)
                self._hash.update(memoryview(buffer)[:length])
                self._full.put((buffer, length))
        except BaseException as exc:
            self._full.put(exc)


def _fill(source: BinaryIO, buffer: bytearray) -> int:
    readinto = getattr(source, "readinto", None)
    view, done = memoryview(buffer), 0
    while done < len(buffer):
        if readinto is not None:
            count = readinto(view[done:])
        else:
            piece = source.read(len(buffer) - done)
            count = len(piece)
            view[done : done + count] = piece
        if not count:
            break
        done += count
    return done


class TarReader:
    """Entry after entry: `next()`, then `content()` until it is empty, or `skip()`.

    `keep` is given every byte of the archive in order, but for contents read with `content()`.
    """

    def __init__(self, feed: Blocks, keep: Callable[[bytes], None]) -> None:
        self._feed = feed
        self._keep = keep
        self._block = memoryview(b"")
        self._at = 0  # where we are in the block
        self._kept = 0  # up to where `keep` has been given it
        self._left = 0  # content of the current entry still to come
        self._padding = 0

    def next(self) -> Entry | None:
        """The next member, or None after the last; then everything has been read, what follows the end included."""
        if self._left or self._padding:
            self.skip()
        long_name = long_link = None
        extended: dict[bytes, bytes] = {}
        while True:
            header = self._header()
            if header is None:
                if extended or long_name is not None or long_link is not None:
                    raise InvalidParameter("tar: unexpected end of the archive after an extended header")
                return None
            fields = _HEADER.unpack(header)
            kind = fields[7]
            size = _number(fields[4], "size")
            if kind in (_PAX, _PAX_SOLARIS):
                extended = parse_pax(self._whole(size, "pax header"))
            elif kind == _PAX_GLOBAL:
                self._whole(size, "global pax header")
            elif kind == _LONG_NAME:
                long_name = self._whole(size, "long name", 2 * MAX_NAME_BYTES).partition(b"\0")[0]
            elif kind == _LONG_LINK:
                long_link = self._whole(size, "long link name", 2 * MAX_NAME_BYTES).partition(b"\0")[0]
            else:
                return self._entry(fields, size, header, extended, long_name, long_link)

    def content(self) -> memoryview | bytes:
        """The next run of the entry's content, valid until the next call; empty when there is no more."""
        if not self._left:
            if self._padding:
                padding, self._padding = self._padding, 0
                self._pass(padding)
            return b""
        if self._at == len(self._block):
            self._load("the content of a file")
        self.flush()
        start = self._at
        self._at = self._kept = min(len(self._block), start + self._left)
        self._left -= self._at - start
        return self._block[start : self._at]

    def flush(self) -> None:
        """Give `keep` all that was read so far: call it before saying where the coming content is kept."""
        if self._kept < self._at:
            self._keep(bytes(self._block[self._kept : self._at]))
            self._kept = self._at

    def skip(self) -> None:
        """Pass over the rest of the entry's content; it goes to `keep`."""
        rest, self._left, self._padding = self._left + self._padding, 0, 0
        self._pass(rest)

    def _entry(
        self,
        fields: tuple[bytes, ...],
        size: int,
        header: bytes,
        extended: dict[bytes, bytes],
        long_name: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        name, mode, uid, gid, _, mtime, _, kind, link, magic, _, _, major, minor, prefix = fields
        entry = Entry()
        name = name.partition(b"\0")[0]
        if prefix[0] and magic[:6] == b"ustar\0":
            name = (prefix[:131] if header[508:] == b"tar\0" else prefix).partition(b"\0")[0] + b"/" + name
        entry.name = name if long_name is None else long_name
        entry.link = link.partition(b"\0")[0] if long_link is None else long_link
        entry.mode = _number(mode, "mode") & 0o7777
        entry.uid, entry.gid = _number(uid, "uid"), _number(gid, "gid")
        entry.mtime_ns = _signed(mtime, "mtime") * 10**9
        entry.major = entry.minor = 0
        if kind in (CHARACTER, BLOCK_DEVICE):
            entry.major, entry.minor = _number(major, "device"), _number(minor, "device")
        entry.xattrs, entry.pieces = {}, None
        if extended:
            size = _apply_pax(entry, extended, size)
        if kind == b"\0" and entry.name.endswith(b"/"):
            kind = DIRECTORY  # V7 had no type for directories
        has_content = kind in _HAS_CONTENT
        entry.type = REGULAR if has_content else kind
        entry.size = size if has_content else 0
        _check(entry, size)
        self._left = entry.size
        self._padding = -entry.size % BLOCK
        if kind == _SPARSE:
            self._old_sparse(entry, header)
        elif extended and any(key.startswith(b"GNU.sparse.") for key in extended):
            self._pax_sparse(entry, extended)
        return entry

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's own sparse format: four runs in the header, more in blocks that follow it."""
        pieces: list[tuple[int, int]] = []
        runs, more, true_size = header[386:482], header[482], _number(header[483:495], "size")
        while True:
            for at in range(0, len(runs), 24):
                if runs[at] == 0:
                    break
                pieces.append(
                    (_number(runs[at : at + 12], "offset"), _number(runs[at + 12 : at + 24], "length"))
                )
            if not more:
                break
            if len(pieces) > MAX_SPARSE_PIECES:
                raise InvalidParameter(f"tar: sparse file {_show(entry.name)} has too many pieces")
            block = self._take(BLOCK, "a sparse map")
            runs, more = block[:504], block[504]
        _set_pieces(entry, true_size, pieces)

    def _pax_sparse(self, entry: Entry, extended: dict[bytes, bytes]) -> None:
        """GNU's sparse formats in pax headers: 0.0 and 0.1 have the map in the header, 1.0 before the content."""
        name = extended.get(b"GNU.sparse.name")
        if name is not None:
            entry.name = name
            _check(entry, entry.size)
        true_size = extended.get(b"GNU.sparse.realsize") or extended.get(b"GNU.sparse.size") or b""
        if extended.get(b"GNU.sparse.major") == b"1":
            numbers = self._sparse_numbers()
        else:
            text = extended.get(b"GNU.sparse.map", b"")
            numbers = [_decimal(number, "GNU.sparse.map") for number in text.split(b",") if number]
        if len(numbers) % 2:
            raise InvalidParameter(f"tar: sparse map of {_show(entry.name)} is cut off")
        entry.size = self._left
        pieces = list(zip(numbers[::2], numbers[1::2], strict=True))
        _set_pieces(entry, _decimal(true_size, "GNU.sparse.realsize"), pieces)

    def _sparse_numbers(self) -> list[int]:
        """The map of format 1.0: decimal numbers, a line each, the first says how many pairs; padded to a block."""
        text = b""
        wanted = -1
        while text.count(b"\n") < (1 if wanted < 0 else 1 + 2 * wanted):
            if self._left < BLOCK or len(text) > MAX_PAX_BYTES:
                raise InvalidParameter("tar: sparse map is cut off or too long")
            self._left -= BLOCK
            text += self._take(BLOCK, "a sparse map")
            if wanted < 0 and b"\n" in text:
                wanted = _decimal(text.partition(b"\n")[0], "sparse map")
                if wanted > MAX_SPARSE_PIECES:
                    raise InvalidParameter(f"tar: sparse map of {wanted} pieces is too long")
        return [_decimal(line, "sparse map") for line in text.split(b"\n")[1 : 1 + 2 * wanted]]

    def _header(self) -> bytes | None:
        """The next header block, its checksum right; None at the end of the archive."""
        if self._at == len(self._block) and not self._advance():
            return None
        header = self._take(BLOCK, "a header")
        if header == _ZEROS:
            if self._at != len(self._block) or self._advance():
                if self._take(BLOCK, "the end") != _ZEROS:
                    raise InvalidParameter("tar: invalid header: a block of zeros, then something else")
                self._drain()
            return None
        _check_sum(header)
        return header

    def _whole(self, size: int, what: str, limit: int = MAX_PAX_BYTES) -> bytes:
        if size > limit:
            raise InvalidParameter(f"tar: {what} of {size} bytes is too long: at most {limit} are read")
        data = self._take(size, what)
        self._pass(-size % BLOCK)
        return data

    def _take(self, size: int, what: str) -> bytes:
        """The next `size` bytes (few); they go to `keep` too."""
        end = self._at + size
        if end <= len(self._block):
            data = bytes(self._block[self._at : end])
            self._at = end
            return data
        parts: list[bytes] = []
        while size:
            if self._at == len(self._block):
                self._load(what)
            part = bytes(self._block[self._at : self._at + size])
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _pass(self, size: int) -> None:
        while size:
            if self._at == len(self._block):
                self._load("the content of a file")
            step = min(size, len(self._block) - self._at)
            self._at += step
            size -= step

    def _drain(self) -> None:
        self._at = len(self._block)
        while self._advance():
            self._at = len(self._block)

    def _load(self, what: str) -> None:
        if not self._advance():
            raise InvalidParameter(f"tar: unexpected end of the archive in {what}")

    def _advance(self) -> bool:
        self.flush()
        self._block = self._feed.next()
        self._at = self._kept = 0
        return len(self._block) > 0


def parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records of an extended header: `LENGTH KEY=VALUE\\n`, LENGTH in decimal and counting itself."""
    records: dict[bytes, bytes] = {}
    runs: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        digits = data[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        equals = data.find(b"=", space, end)
        if end <= space + 1 or end > len(data) or data[end - 1] != 0x0A or equals < 0:
            raise InvalidParameter("tar: malformed pax header record")
        key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):  # format 0.0 says these again and again
            runs.append(value)
            records[b"GNU.sparse.map"] = b""
        else:
            records[key] = value
        at = end
    if runs:
        records[b"GNU.sparse.map"] = b",".join(runs)
    return records


def _apply_pax(entry: Entry, extended: dict[bytes, bytes], size: int) -> int:
    """What an extended header says in place of the plain one; the size of the content."""
    for key, value in extended.items():
        if key == b"path":
            entry.name = value or entry.name
        elif key == b"linkpath":
            entry.link = value or entry.link
        elif key == b"size" and value:
            size = _decimal(value, "size")
        elif key == b"uid" and value:
            entry.uid = _decimal(value, "uid")
        elif key == b"gid" and value:
            entry.gid = _decimal(value, "gid")
        elif key == b"mtime" and value:
            entry.mtime_ns = _timestamp(value)
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
    return size


def _check(entry: Entry, size: int) -> None:
    if len(entry.name) > MAX_NAME_BYTES or len(entry.link) > MAX_NAME_BYTES:
        raise InvalidParameter(
            f"tar: name {_show(entry.name)} or its link is longer than {MAX_NAME_BYTES} bytes"
        )
    if b"\0" in entry.name or b"\0" in entry.link:
        raise InvalidParameter(f"tar: name {_show(entry.name)} or its link holds a NUL")
    if not 0 <= size <= MAX_FILE_BYTES:
        raise InvalidParameter(f"tar: size {size} of {_show(entry.name)} is out of range")
    if not (0 <= entry.uid < 2**32 - 1 and 0 <= entry.gid < 2**32 - 1):
        raise InvalidParameter(f"tar: owner {entry.uid}:{entry.gid} of {_show(entry.name)} is out of range")
    if not 0 <= entry.mtime_ns <= _MAX_NS:
        entry.mtime_ns = 0  # as Docker does with times it cannot represent


def _set_pieces(entry: Entry, true_size: int, pieces: list[tuple[int, int]]) -> None:
    """Runs must be in order, apart, inside the file, and together as long as the content."""
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0:
            raise InvalidParameter(f"tar: sparse map of {_show(entry.name)} is out of order")
        end = offset + length
    if end > true_size or true_size > MAX_FILE_BYTES or sum(length for _, length in pieces) != entry.size:
        raise InvalidParameter(f"tar: sparse map of {_show(entry.name)} does not fit its size")
    entry.pieces = true_size, [(offset, length) for offset, length in pieces if length]


def _check_sum(header: bytes) -> None:
    """Compare the header's checksum: the sum of its bytes, the checksum field taken as eight spaces."""
    field = header[148:156]
    said = _number(field, "checksum")
    # The low half of an Adler-32 is 1 + the sum modulo 65521: the one quick sum of bytes Python has.
    summed = (zlib.adler32(header[156:], zlib.adler32(header[:148])) & 0xFFFF) + 255
    if (summed - said) % 65521 == 0:
        return
    rest = header[:148] + header[156:]
    if said == 256 + sum(byte - 256 if byte > 127 else byte for byte in rest):
        return  # old archivers summed signed bytes
    raise InvalidParameter("tar: invalid header: wrong checksum")


def _number(field: bytes, what: str) -> int:
    """A number that cannot be negative: octal text, or GNU's base 256 where the first bit is set."""
    text = field.rstrip(b"\0 ").lstrip(b" ")
    if text.isdigit():
        try:
            return int(text, 8)
        except ValueError:
            raise InvalidParameter(f"tar: invalid {what} {_show(field)} in a header") from None
    if not text:
        return 0
    value = _signed(field, what)
    if value < 0:
        raise InvalidParameter(f"tar: negative {what} in a header")
    return value


def _signed(field: bytes, what: str) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.partition(b"\0")[0].strip(b" ")  # some writers leave rubbish after the first NUL
    negative = text.startswith(b"-")
    digits = text[1:] if negative else text
    if not digits:
        return 0
    if not digits.isdigit() or digits.strip(b"01234567"):
        raise InvalidParameter(f"tar: invalid {what} {_show(field)} in a header")
    return -int(digits, 8) if negative else int(digits, 8)


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise InvalidParameter(f"tar: invalid {what} {_show(text)} in a pax header")
    return int(text)


def _timestamp(text: bytes) -> int:
    """`1350244992.023960108` in nanoseconds."""
    whole, _, fraction = text.partition(b".")
    digits = whole[1:] if whole.startswith(b"-") else whole
    if not digits.isdigit() or len(digits) > 20 or (fraction and not fraction.isdigit()):
        raise InvalidParameter(f"tar: invalid mtime {_show(text)} in a pax header")
    nanoseconds = int(digits) * 10**9 + int(fraction[:9].ljust(9, b"0") or b"0")
    return -nanoseconds if whole.startswith(b"-") else nanoseconds


def _show(name: bytes) -> str:
    text = name.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 200 else text[:200] + "…")
