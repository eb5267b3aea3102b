"""A nameless file on the store's filesystem for what must be kept a while: nothing of it outlives the process."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable

from wherry.errors import Internal
from wherry.oci.digest import Digest
from wherry.store.store import Store

_CHUNK = 1 << 20
_ANY = Digest("sha256:" + "0" * 64)


class Spool:
    """Append with `write`, read back any part with `reader`. For threads; close it."""

    def __init__(self, directory: str) -> None:
        self._fd = _nameless(directory)
        self.size = 0

    @classmethod
    def beside(cls, store: Store) -> Spool:
        """A spool on the filesystem where `store` keeps its blobs."""
        return cls(os.path.dirname(store.blobs.path(_ANY)))

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._fd, view)
            except OSError as exc:
                raise Internal(
                    f"cannot write what came in to disk: {os.strerror(exc.errno or 0).lower()}"
                ) from exc
            self.size += written
            view = view[written:]

    def read(self, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (part := os.pread(self._fd, min(size, _CHUNK), offset)):
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def reader(self, offset: int, size: int, report: Callable[[int], None] | None = None) -> SpoolReader:
        return SpoolReader(self._fd, offset, size, report)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _nameless(directory: str) -> int:
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    # Not every filesystem has O_TMPFILE (NFS): then the name is gone at once.
    descriptor, path = tempfile.mkstemp(prefix="tmp-spool-", dir=directory)
    os.unlink(path)
    return descriptor


class SpoolReader(io.RawIOBase):
    """One part of a spool as a binary file. `report` is told how much of it was read."""

    def __init__(self, fd: int, offset: int, size: int, report: Callable[[int], None] | None) -> None:
        super().__init__()
        self._fd = os.dup(fd)  # its own: the spool may be closed while a thread still reads
        self._start = self._at = offset
        self._end = offset + size
        self._report = report

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # pyright: ignore[reportArgumentType]
        count = os.preadv(self._fd, [view[: self._end - self._at]], self._at)
        self._at += count
        if self._report is not None:
            self._report(self._at - self._start)
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
            super().close()
