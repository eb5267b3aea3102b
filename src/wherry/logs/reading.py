"""Reading log files back, in the daemon: by time, from the end, across rotated files, and on as they grow.

A log is written by another process while it is read. A last record that is not whole is not there yet; the
file being read may be renamed (rotation) or removed, and is read to its end before the next one. How its records look
is told by json_records.py or local_records.py.
"""

from __future__ import annotations

import os
import zlib

from wherry.logs.rotation import old_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from wherry.logs.driver import Entry

    class Records(Protocol):
        """A module that knows one kind of record."""

        def decode(self, data: bytes) -> tuple[list[Entry], bytes]:
            """The entries of the whole records in `data`, and what is left after the last of them."""
            ...

        def seek_to_tail(self, fd: int, count: int) -> int:
            """Stand before the last `count` whole records, or at the beginning; how many whole records lie ahead."""
            ...

        def seek_to_time(self, fd: int, since_ns: int) -> bool:
            """Stand before the first entry that is not older than `since_ns`, or a little before it.

            False, and at the beginning, if the first entry is wanted, so that older files may hold some too.
            """
            ...

        def seek_to_end(self, fd: int) -> bytes:
            """Stand at the end; the beginning of a record that is being written just now."""
            ...


_BLOCK = 1 << 18
_UNPACKED = 1 << 20


class FileReader:
    """See driver.py. One position in one container's log."""

    def __init__(
        self, path: str, records: Records, *, since_ns: int = 0, until_ns: int = 0, tail: int = -1
    ) -> None:
        self._path = path
        self._records = records
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
            yield from self._filtered(self._first_entries())
        while not self.done:
            if self._fd < 0 and not self._open(self._path):
                return
            yield from self._filtered(self._entries(self._fd))
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
        for path in old_files(self._path):
            stat = _stat(path)
            if stat is not None and _is_same(stat, mine):
                return self._open(following)
            following = path
        return self._open(self._path)

    def _first_entries(self) -> Iterator[Entry]:
        """The entries of all files there are, or their last `tail`; the newest file is left to `entries`."""
        older = old_files(self._path)
        if self._tail == 0:
            if self._open(self._path):
                self._rest = self._records.seek_to_end(self._fd)
            return
        # The newest is opened first: what is rotated while older ones are read is then still found through
        # it.
        has_newest = self._open(self._path)
        wanted = self._tail
        chosen: list[tuple[str, int]] = []
        if (
            wanted < 0
            and self._since_ns
            and has_newest
            and self._records.seek_to_time(self._fd, self._since_ns)
        ):
            return  # what is wanted begins within the newest file
        if wanted > 0 and has_newest:
            wanted -= self._records.seek_to_tail(self._fd, wanted)
        for path in older:
            if wanted == 0:
                break
            skip = 0
            if wanted > 0:
                count = sum(1 for _ in self._entries_of(path))
                skip = max(0, count - wanted)
                wanted = max(0, wanted - count)
            chosen.append((path, skip))
        for path, skip in reversed(chosen):
            for number, entry in enumerate(self._entries_of(path)):
                if number >= skip:
                    yield entry

    def _entries(self, fd: int) -> Iterator[Entry]:
        """The whole entries from the file's position to its end; the beginning of another is kept."""
        while block := os.read(fd, _BLOCK):
            found, self._rest = self._records.decode(self._rest + block)
            yield from found

    def _entries_of(self, path: str) -> Iterator[Entry]:
        """The whole entries of an old file, packed or not."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            unpacker = zlib.decompressobj(wbits=31) if path.endswith(".gz") else None
            rest = b""
            while block := os.read(fd, _BLOCK):
                while block:
                    piece = block
                    if unpacker is not None:
                        try:
                            piece = unpacker.decompress(block, _UNPACKED)
                        except zlib.error:
                            return
                    block = unpacker.unconsumed_tail if unpacker is not None else b""
                    found, rest = self._records.decode(rest + piece)
                    yield from found
        finally:
            os.close(fd)

    def _filtered(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        since, until = self._since_ns, self._until_ns
        if not since and not until:
            yield from entries
            return
        for entry in entries:
            if entry.time_ns < since:
                continue
            if until and entry.time_ns > until:
                self.done = True
                return
            yield entry


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_dev) == (other.st_ino, other.st_dev)
