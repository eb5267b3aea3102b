"""The `local` driver's writer: small binary files, packed when they are old. For `docker logs` alone.

The files are Docker's own (local_records.py), so that what reads Docker's reads ours. Limits as Docker's: 20 MB, five
files, old ones packed. It is the cache of drivers that give nothing back, too. reading.py gives the files back.
"""

from __future__ import annotations

from wherry.errors import InvalidParameter
from wherry.logs import options as log_options
from wherry.logs.lines import Lines, is_within_piece
from wherry.logs.local_records import encode, encode_lines, next_end
from wherry.logs.rotation import MAX_FILE, Limits, RotatingFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from wherry.logs.driver import LogReader
    from wherry.logs.lines import Message

    Value = TypeVar("Value")

DEFAULT = Limits(20_000_000, 5, compress=True)

_OPTIONS = frozenset({"max-size", "max-file", "compress"})


class Local:
    """See driver.py. `options` are also those of a cache, without their prefix."""

    readable = True
    file_name = "local-logs/container.log"

    def __init__(self, path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> None:
        self.file = RotatingFile(path, read_limits(options), next_end)
        self._lines = {stream: Lines(stream) for stream in ("stdout", "stderr")}
        self._last_time_ns = 0

    @staticmethod
    def validate(options: Mapping[str, str]) -> None:
        """Raise InvalidParameter for what Docker refuses, in its words."""
        for name in options:
            if name not in _OPTIONS:
                raise InvalidParameter(f"unknown log opt '{name}' for log driver local")
        read_limits(options)

    @staticmethod
    def reader(path: str, *, since_ns: int = 0, until_ns: int = 0, tail: int = -1) -> LogReader:
        # Only the daemon reads. The shim, which imports nothing late, never comes here.
        from wherry.logs import local_records
        from wherry.logs.reading import FileReader

        return FileReader(path, local_records, since_ns=since_ns, until_ns=until_ns, tail=tail)

    def write(self, stream: str, data: memoryview, time_ns: int) -> None:
        """Log the lines that `data` completes; keep the beginning of the next."""
        self._last_time_ns = time_ns
        lines, chunk = self._lines[stream], bytes(data)
        start = chunk.find(b"\n") + 1 if lines.is_within_line else 0
        cut = chunk.rfind(b"\n") + 1
        whole = chunk[start:cut]
        if not whole or not is_within_piece(whole):
            self._append(lines.feed(chunk, time_ns))
            return
        self._append(lines.feed(chunk[:start], time_ns))
        self.file.append(encode_lines(stream, whole[:-1].split(b"\n"), time_ns))
        self._append(lines.feed(chunk[cut:], time_ns))

    def _append(self, messages: list[Message]) -> None:
        if messages:
            self.file.append(b"".join(map(encode, messages)))

    def close(self) -> None:
        """Log the beginnings of lines that will not be completed."""
        for lines in self._lines.values():
            self._append(lines.end(self._last_time_ns))
        self.file.close()

    def fileno(self) -> int:
        return self.file.fileno()


def read_limits(options: Mapping[str, str]) -> Limits:
    """What `options` ask for. Raises InvalidParameter in Docker's words."""
    limits = Limits(DEFAULT.max_size, DEFAULT.max_file, compress=DEFAULT.compress)
    if "max-size" in options:
        text = options["max-size"]
        limits.max_size = _read("invalid value for max-size: " + text, log_options.parse_size, text)
        if limits.max_size <= 0:
            raise InvalidParameter(f"invalid value for max-size: {text}: must be a positive number")
    if "max-file" in options:
        text = options["max-file"]
        limits.max_file = _read("invalid value for max-file: " + text, log_options.parse_int, text)
        if limits.max_file < 0:
            raise InvalidParameter(f"invalid value for max-file: {text}: must be a positive number")
    if "compress" in options:
        limits.compress = _read(
            "error reading compress log option", log_options.parse_bool, options["compress"]
        )
    if limits.compress and limits.max_file <= 1:
        raise InvalidParameter("compression cannot be enabled when max file count is 1")
    if limits.max_file > MAX_FILE:
        raise InvalidParameter(f"max-file {limits.max_file} is too large: use at most {MAX_FILE}")
    limits.max_file = max(limits.max_file, 1)
    return limits


def _read(what: str, parse: Callable[[str], Value], text: str) -> Value:
    """`parse(text)`, whose failure is told with `what` before it."""
    try:
        return parse(text)
    except InvalidParameter as exc:
        raise InvalidParameter(f"{what}: {exc}") from exc
