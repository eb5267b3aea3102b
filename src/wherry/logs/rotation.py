"""A log file that begins anew at a size: PATH, PATH.1 (the newest of the old ones), PATH.2, …, packed if asked.

Options: `max-size` (bytes or 10k, 10m, 1g; -1: unbounded), `max-file`, `compress` (old files become .gz, packed
by a child). Never raises for the disk: what cannot be written is lost in whole entries and counted, since the
container must live.
"""

from __future__ import annotations

import os
import zlib

from wherry.errors import InvalidParameter
from wherry.logs.options import parse_bool, parse_int, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_FILE = 1000


class Limits:
    """When a file ends and how many there are. `max_size` is -1 for no limit."""

    __slots__ = ("compress", "max_file", "max_size")

    def __init__(self, max_size: int, max_file: int, *, compress: bool) -> None:
        self.max_size = max_size
        self.max_file = max_file
        self.compress = compress


class RotatingFile:
    """The file. `next_end(entries, position)` is where the entry ends that has the byte at `position`."""

    def __init__(self, path: str, limits: Limits, next_end: Callable[[bytes, int], int]) -> None:
        self.limits = limits
        self._path = path
        self._next_end = next_end
        self._compressor = 0
        self._fd = -1
        self._size = 0
        self.lost_bytes = 0
        """What could not be written, for want of space for example."""
        self.trouble = ""
        """Why the last entries could not be written; empty while they can."""
        self._open()

    def fileno(self) -> int:
        return self._fd

    def append(self, entries: bytes) -> None:
        """Write entries, beginning a new file after the entry that crosses the limit, as Docker does."""
        start = 0
        max_size = self.limits.max_size
        while start < len(entries):
            if 0 <= max_size <= self._size:
                self._rotate()
            end = len(entries)
            if max_size >= 0:
                room = max_size - self._size
                if end - start > room:
                    end = self._next_end(entries, start + max(room, 1) - 1)
            self._write(entries[start:end] if (start, end) != (0, len(entries)) else entries)
            start = end

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._await_compressor()

    def clear(self) -> None:
        """Begin anew with no old files. Whoever reads the present one keeps what was there."""
        self._await_compressor()
        remove(self._path)
        if self._fd >= 0:
            os.close(self._fd)
        self._open()

    def _open(self) -> None:
        try:
            self._fd = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
            )
            self._size = os.fstat(self._fd).st_size
        except OSError:
            self._fd = -1  # tried again with the next entry

    def _write(self, entries: bytes) -> None:
        if self._fd < 0:
            self._open()
        written = 0
        try:
            while written < len(entries):
                written += os.write(self._fd, memoryview(entries)[written:])
            self._size += written
            self.trouble = ""
        except OSError as exc:
            # No space, most likely. Whole entries are lost, never halves of them, and the container lives.
            self.trouble = exc.strerror or str(exc)
            self.lost_bytes += len(entries)
            if written:
                try:
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                except OSError:
                    pass

    def _rotate(self) -> None:
        try:
            self._size = os.fstat(self._fd).st_size if self._fd >= 0 else 0
            if self._size < self.limits.max_size:
                return  # somebody truncated it
            self._await_compressor()
            if self.limits.max_file == 1:
                os.unlink(self._path)  # not truncated: whoever reads it keeps what was there
            else:
                self._shift()
        except OSError:
            return  # goes on in the same file
        os.close(self._fd)
        self._open()
        if self.limits.compress and self.limits.max_file > 1:
            self._compressor = _compress(f"{self._path}.1")

    def _shift(self) -> None:
        for number in range(self.limits.max_file - 1, 1, -1):
            for suffix in ("", ".gz"):
                try:
                    os.rename(f"{self._path}.{number - 1}{suffix}", f"{self._path}.{number}{suffix}")
                except FileNotFoundError:
                    pass
        os.rename(self._path, f"{self._path}.1")

    def _await_compressor(self) -> None:
        if self._compressor:
            try:
                os.waitpid(self._compressor, 0)
            except ChildProcessError:
                pass  # the shim's reaper was first
            self._compressor = 0


def old_files(path: str) -> list[str]:
    """The old files of `path` there are, newest first."""
    found: list[str] = []
    while len(found) < MAX_FILE:
        name = f"{path}.{len(found) + 1}"
        if os.path.exists(name):
            found.append(name)
        elif os.path.exists(f"{name}.gz"):
            found.append(f"{name}.gz")
        else:
            break
    return found


def remove(path: str) -> None:
    """Remove the file and its old ones."""
    for name in (path, *old_files(path)):
        try:
            os.unlink(name)
        except OSError:
            pass  # not there, or not to be removed: then it stays


def read_limits(options: Mapping[str, str], default: Limits) -> Limits:
    """What `options` ask for. Raises InvalidParameter in Docker's words."""
    limits = Limits(-1, 1, compress=False)
    if "max-size" not in options:
        limits.max_size, limits.max_file = default.max_size, default.max_file
    elif options["max-size"] != "-1":
        limits.max_size = parse_size(options["max-size"])
        if limits.max_size <= 0:
            raise InvalidParameter("max-size must be a positive number")
    if "max-file" in options:
        limits.max_file = parse_int(options["max-file"])
        if limits.max_file < 1:
            raise InvalidParameter("max-file cannot be less than 1")
        if limits.max_file > MAX_FILE:
            raise InvalidParameter(f"max-file {limits.max_file} is too large: use at most {MAX_FILE}")
    limits.compress = parse_bool(options["compress"]) if "compress" in options else default.compress
    if limits.compress and (limits.max_file == 1 or limits.max_size == -1):
        raise InvalidParameter("compress cannot be true when max-file is less than 2 or max-size is not set")
    return limits


def _compress(path: str) -> int:
    """Turn `path` into `path`.gz in a child, whose pid is returned; 0 if there can be none."""
    try:
        pid = os.fork()
    except OSError:
        return 0
    if pid:
        return pid
    status = 1
    try:
        os.closerange(3, 1 << 20)
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        temporary = f"{path}.tmp"
        target = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
        )
        packer = zlib.compressobj(wbits=31)
        while data := os.read(source, 1 << 18):
            _write_all(target, packer.compress(data))
        _write_all(target, packer.flush())
        os.rename(temporary, f"{path}.gz")
        os.unlink(path)
        status = 0
    finally:
        os._exit(status)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
