"""A record of the tar a layer came from, with which the very same bytes can be written again from the tree.

Unpacking loses what a tar says beside the files: the order of its members, how headers are spelled, padding. The
record keeps all of that, and names the file in the tree where a member's content lies (docs/decisions/0003).
A zstd stream of frames:

    "R" u32 length, bytes                              bytes as they were in the archive
    "F" u64 offset, u64 length, u16 length, path       that many bytes of the file at `path` in the tree
    "E"                                                the end; without it the record was cut off

Integers are little-endian. Files are numbered as they come. A later member of the same name takes the place of an
earlier one, whose content is then found under `displaced/N`, by the lines of `displaced/index`: `NUMBER N path`, for
what was moved away before file NUMBER was written.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from bisect import bisect_left
from collections.abc import Callable
from typing import BinaryIO, Final, Protocol

from wherry.errors import Internal
from wherry.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_below

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_RAW: Final = struct.Struct("<cI")
_FILE: Final = struct.Struct("<cQQH")
_FLUSH: Final = 256 * 1024
_CHUNK: Final = 1 << 20
_LEVEL: Final = 1


class RecordWriter:
    """Writes the record beside a tree that is being unpacked."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115  finish and close end it
        self._compressor = zstd.ZstdCompressor(level=_LEVEL)
        self._pending: list[bytes] = []
        self._size = 0
        self.files = 0
        """How many contents were recorded so far."""

    def raw(self, data: bytes) -> None:
        self._append(_RAW.pack(b"R", len(data)), data)

    def content(self, path: bytes, offset: int, length: int) -> None:
        """The next bytes of the archive are these bytes of `path`. For length 0 nothing is recorded."""
        if length:
            self.files += 1
            self._append(_FILE.pack(b"F", offset, length, len(path)), path)

    def finish(self) -> None:
        self._append(b"E", b"")
        self._write()
        self._file.write(self._compressor.flush())
        self._file.close()

    def close(self) -> None:
        self._file.close()

    def _append(self, head: bytes, body: bytes) -> None:
        self._pending += (head, body)
        self._size += len(head) + len(body)
        if self._size >= _FLUSH:
            self._write()

    def _write(self) -> None:
        data = memoryview(self._compressor.compress(b"".join(self._pending)))
        while data:
            data = data[self._file.write(data) :]
        self._pending.clear()
        self._size = 0


class Displaced:
    """What later members of the archive took the place of: `displaced/N` and the index that says what was where."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._moves: dict[bytes, list[tuple[int, int]]] = {}
        try:
            with open(os.path.join(directory, "index"), "rb") as index:
                for line in index.read().split(b"\0"):
                    if line:
                        number, place, path = line.split(b" ", 2)
                        self._moves.setdefault(path, []).append((int(number), int(place)))
        except FileNotFoundError:
            pass

    def find(self, number: int, path: bytes) -> bytes | None:
        """Where file `number`, unpacked at `path`, lies below `displaced/`; None if it still lies in the tree."""
        first: tuple[int, int, bytes] | None = None
        if not self._moves:
            return None
        end = len(path)
        while end > 0:
            moves = self._moves.get(path[:end])
            if moves is not None:
                at = bisect_left(moves, (number + 1, -1))
                if at < len(moves) and (first is None or moves[at] < first[:2]):
                    first = (*moves[at], path[end:])
            end = path.rfind(b"/", 0, end)
        return None if first is None else b"%d%s" % (first[1], first[2])

    @staticmethod
    def line(number: int, place: int, path: bytes) -> bytes:
        """A line of the index: what lay at `path` went to `place` before file `number` was written."""
        return b"%d %d %s\0" % (number, place, path)


def write_tar(record: str, tree: str, displaced: str, out: BinaryIO) -> str:
    """Write the archive again; the digest of what was written. Raises Internal where record or tree are damaged."""
    moved = Displaced(displaced)
    roots = [os.open(tree, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    digest = hashlib.sha256()

    def emit(data: bytes) -> None:
        digest.update(data)
        out.write(data)

    try:
        if os.path.isdir(displaced):
            roots.append(os.open(displaced, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        number = 0
        with open(record, "rb") as file, zstd.ZstdFile(file) as frames:
            while (kind := frames.read(1)) != b"E":
                if kind == b"R":
                    emit(_exactly(frames, int.from_bytes(_exactly(frames, 4), "little")))
                elif kind == b"F":
                    _, offset, length, size = _FILE.unpack(kind + _exactly(frames, _FILE.size - 1))
                    path = _exactly(frames, size)
                    elsewhere = moved.find(number, path)
                    root, place = (roots[0], path) if elsewhere is None else (roots[-1], elsewhere)
                    _copy(root, place, offset, length, emit)
                    number += 1
                else:
                    raise Internal(f"the record {record} of a layer is damaged")
    except (zstd.ZstdError, EOFError, struct.error, OSError) as exc:
        raise Internal(f"cannot write the layer of {tree} again: {exc}") from exc
    finally:
        for root in roots:
            os.close(root)
    return "sha256:" + digest.hexdigest()


class Frames(Protocol):
    """The decompressed record."""

    def read(self, size: int, /) -> bytes: ...


def _exactly(frames: Frames, size: int) -> bytes:
    data = frames.read(size)
    while len(data) < size:
        more = frames.read(size - len(data))
        if not more:
            raise EOFError("its record is cut off")
        data += more
    return data


def _copy(root: int, path: bytes, offset: int, length: int, out: Callable[[bytes], None]) -> None:
    source = open_below(
        root, os.fsdecode(path), os.O_RDONLY | os.O_NOFOLLOW, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    )
    try:
        while length:
            data = os.pread(source, min(length, _CHUNK), offset)
            if not data:
                raise EOFError(f"{os.fsdecode(path)} is shorter than it was")
            out(data)
            offset += len(data)
            length -= len(data)
    finally:
        os.close(source)
