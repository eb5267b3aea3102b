"""The members of an archive, kept until it is known what they are for: small ones in memory, the rest in a spool.

Nothing is ever written under a name that the archive chose: paths in it, its links, and what its manifest says
about them are only looked up among its own members.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable
from typing import BinaryIO, TypeVar, cast

import msgspec

from wherry.engine.spool import Spool
from wherry.errors import InvalidParameter
from wherry.oci.reference import Reference
from wherry.store.compression import decompressed
from wherry.store.tar import BLOCK, LINK, REGULAR, SYMLINK, TarReader

SMALL = 1 << 20
MAX_IN_MEMORY = 64 << 20
MAX_MEMBERS = 100_000
MAX_LINKS = 16
_BLOCKS = 1 << 20

T = TypeVar("T")


class Member(msgspec.Struct, frozen=True):
    """One file of the archive: its bytes, or where they are in the spool."""

    size: int
    data: bytes | None = None
    offset: int = 0


class ArchivedImage(msgspec.Struct, frozen=True):
    """An image found in an archive: all that `loads.py` needs to know."""

    config: bytes
    layers: tuple[Member, ...]
    """Lowest first, compressed or not."""
    tags: tuple[Reference, ...] = ()


class Members:
    """The files of an archive by normalised path."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._members: dict[str, Member | str] = {}
        self._in_memory = 0

    @classmethod
    def read(cls, spool: Spool, source: BinaryIO) -> Members:
        """Take in the whole of `source`, compressed or not. Blocks. Raises InvalidParameter for no proper tar."""
        members = cls(spool)
        tar = TarReader(_Blocks(decompressed(source)), _forget)  # pyright: ignore[reportArgumentType]
        while (entry := tar.next()) is not None:
            path = normalised(entry.name)
            if path is None or entry.type not in (REGULAR, LINK, SYMLINK):
                continue
            if len(members._members) >= MAX_MEMBERS:
                raise InvalidParameter(f"the archive has more than {MAX_MEMBERS} members")
            if entry.pieces is not None:
                raise InvalidParameter(f"invalid archive: {path[:200]!r} is a sparse file")
            if entry.type == REGULAR:
                members._members[path] = members._keep(tar, entry.size)
            else:
                base = posixpath.dirname(path) if entry.type == SYMLINK else ""
                target = normalised(posixpath.join(base.encode(), entry.link))
                if target is not None and not entry.link.startswith(b"/"):
                    members._members[path] = target
        return members

    def find(self, path: str) -> Member | None:
        """The file at `path`, links followed inside the archive."""
        name = normalised(path.encode("utf-8", "replace"))
        for _ in range(MAX_LINKS):
            found = self._members.get(name) if name is not None else None
            if not isinstance(found, str):
                return found
            name = found
        return None

    def get(self, path: str) -> Member:
        """As `find`. Raises InvalidParameter when there is none."""
        member = self.find(path)
        if member is None:
            raise InvalidParameter(f"invalid archive: it holds no file {path[:200]!r}")
        return member

    def read_small(self, member: Member, limit: int, what: str) -> bytes:
        """The bytes of a member that may have `limit` at most."""
        if member.size > limit:
            raise InvalidParameter(f"invalid archive: {what} is larger than {limit} bytes")
        return member.data if member.data is not None else self._spool.read(member.offset, member.size)

    def open(self, member: Member, report: Callable[[int], None] | None = None) -> BinaryIO:
        """The bytes of a member as a file. `report` is told how many were read."""
        if member.data is not None:
            if report is not None:
                report(member.size)
            return io.BytesIO(member.data)
        return cast("BinaryIO", self._spool.reader(member.offset, member.size, report))

    def _keep(self, tar: TarReader, size: int) -> Member:
        if size <= SMALL and self._in_memory + size <= MAX_IN_MEMORY:
            data = bytearray()
            while chunk := tar.content():
                data += chunk
            self._in_memory += len(data)
            return Member(len(data), data=bytes(data))
        start = self._spool.size
        while chunk := tar.content():
            self._spool.write(chunk)
        return Member(self._spool.size - start, offset=start)


class _Blocks:
    """A stream in blocks, as TarReader wants them, without a thread or a digest of its own."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._buffer = bytearray(_BLOCKS)

    def next(self) -> memoryview:
        view = memoryview(self._buffer)
        done = 0
        try:
            while done < len(view) and (count := cast("io.RawIOBase", self._source).readinto(view[done:])):
                done += count
        except OSError as exc:
            raise InvalidParameter(f"cannot read the archive: {exc}") from exc
        if 0 < done < BLOCK:
            raise InvalidParameter("unexpected EOF")  # Docker's text for what is not even one header
        return view[:done]


def normalised(name: bytes) -> str | None:
    """A member's path without `./`, doubled slashes and a leading one; None if it leaves the archive or is odd."""
    try:
        path = posixpath.normpath(name.decode().lstrip("/"))
    except UnicodeDecodeError:
        return None
    return None if path == "." or path == ".." or path.startswith("../") else path


def decode_json(data: bytes, kind: type[T], what: str) -> T:
    """A document of the archive as `kind`. Raises InvalidParameter that names it."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid {what}: {exc}") from exc


def _forget(data: bytes) -> None:
    """Headers and padding of the archive are of no use."""
