r"""The `json-file` driver's writer: one JSON object a line, byte for byte what Docker writes (compared with
20.10).

    {"log":"text\n","stream":"stdout","attrs":{"tag":"web"},"time":"2026-11-24T22:16:10.998525954Z"}

`attrs` is there if the container has any. A line of PIECE bytes or more is logged in pieces of PIECE bytes,
of which the last alone ends in \n; so is what has no newline when the output ends. The time is that of the
read that brought the end of the line. Differences from Docker: a piece ends before a UTF-8 character rather
than inside; and logs are bounded by default (see DEFAULT), since a container that fills the host's disk
takes everybody down.

Options are those of rotation.py; reading.py gives the files back.

The shim writes in bulk: what one read brought is escaped and wrapped with a handful of bytes.replace, so that
lines cost no Python each.
"""

from __future__ import annotations

import time

from wherry.logs import options as log_options
from wherry.logs.lines import PIECE, cut_piece, is_within_piece
from wherry.logs.rotation import Limits, RotatingFile, read_limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.logs.driver import LogReader

DEFAULT = Limits(100_000_000, 5, compress=False)

_OPTIONS = log_options.DETAILS | {"max-size", "max-file", "compress"}

_ESCAPES: dict[int, bytes] = {
    # The backslash first: the others bring in new ones.
    ord("\\"): b"\\\\",
    ord('"'): b'\\"',
    ord("\r"): b"\\r",
    **{ord(char): b"\\u%04x" % ord(char) for char in "<>&"},
    **{byte: b"\\u%04x" % byte for byte in range(32) if byte not in b"\n\r"},
}
_PLAIN = bytes(byte for byte in range(128) if byte not in _ESCAPES)


def escape(data: bytes) -> bytes:
    """`data` as Go's jsonlog writes it between quotes, but for newlines, which stay."""
    special = data.translate(None, _PLAIN)
    if not special:
        return data
    for byte, escaped in _ESCAPES.items():
        if byte in special:
            data = data.replace(bytes((byte,)), escaped)
    if not special.isascii():
        try:
            data.decode()
        except UnicodeDecodeError:
            # Go writes each byte that begins no character as \ufffd: surrogateescape marks the same ones, and
            # encoding turns the marks to "?". A NUL, which is escaped by now, stands in for true question
            # marks.
            marked = data.replace(b"?", b"\0").decode(errors="surrogateescape").encode(errors="replace")
            data = marked.replace(b"?", b"\\ufffd").replace(b"\0", b"?")
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data


def timestamp(time_ns: int) -> str:
    """Go's RFC3339Nano in UTC: no trailing zeros in the fraction."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{nanos:09d}".rstrip("0") + "Z" if nanos else f"{whole}Z"


class JsonFile:
    """See driver.py."""

    readable = True
    file_name = "{id}-json.log"

    def __init__(self, path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> None:
        details = b""
        if attrs:
            pairs = (b'"%s":"%s"' % (_quote(key), _quote(attrs[key])) for key in sorted(attrs))
            details = b',"attrs":{%s}' % b",".join(pairs)
        self._tails = {
            stream: b'","stream":"%s"%s,"time":"' % (stream.encode(), details)
            for stream in ("stdout", "stderr")
        }
        self._rest = {"stdout": b"", "stderr": b""}
        self._last_time_ns = 0
        self.file = RotatingFile(path, read_limits(options, DEFAULT), _next_end)

    @staticmethod
    def validate(options: Mapping[str, str]) -> None:
        """Raise InvalidParameter for what Docker refuses, in its words."""
        log_options.check_known(options, _OPTIONS, "json-file")
        read_limits(options, DEFAULT)

    @staticmethod
    def reader(path: str, *, since_ns: int = 0, until_ns: int = 0, tail: int = -1) -> LogReader:
        # Only the daemon reads. The shim, which imports nothing late, never comes here.
        from wherry.logs import json_records
        from wherry.logs.reading import FileReader

        return FileReader(path, json_records, since_ns=since_ns, until_ns=until_ns, tail=tail)

    def write(self, stream: str, data: memoryview, time_ns: int) -> None:
        """Log the lines that `data` completes; keep the beginning of the next."""
        self._last_time_ns = time_ns
        chunk = self._rest[stream] + data
        cut = chunk.rfind(b"\n") + 1
        rest = chunk[cut:] if cut else chunk
        if cut:
            lines = chunk[:cut] if rest else chunk
            if is_within_piece(lines):
                self.file.append(self._entries(stream, lines, time_ns))
            else:
                self.file.append(b"".join(self._pieces(stream, lines, time_ns)))
        while len(rest) >= PIECE:
            piece = cut_piece(rest)
            self.file.append(self._entry(stream, piece, time_ns))
            rest = rest[len(piece) :]
        self._rest[stream] = rest

    def close(self) -> None:
        """Log the beginnings of lines that will not be completed."""
        for stream, rest in self._rest.items():
            if rest:
                self.file.append(self._entry(stream, rest, self._last_time_ns))
                self._rest[stream] = b""
        self.file.close()

    def fileno(self) -> int:
        return self.file.fileno()

    # Encoding

    def _entries(self, stream: str, lines: bytes, time_ns: int) -> bytes:
        """Whole lines, each as one entry. `lines` ends in a newline."""
        end = b'%s%s"}\n' % (self._tails[stream], timestamp(time_ns).encode())
        between = b"\\n" + end + b'{"log":"'
        return b'{"log":"' + escape(lines[:-1]).replace(b"\n", between) + b"\\n" + end

    def _entry(self, stream: str, piece: bytes, time_ns: int) -> bytes:
        """One piece without newline."""
        return b'{"log":"%s%s%s"}\n' % (escape(piece), self._tails[stream], timestamp(time_ns).encode())

    def _pieces(self, stream: str, lines: bytes, time_ns: int) -> list[bytes]:
        """Lines of which some are too long for one entry."""
        found: list[bytes] = []
        for line in lines.split(b"\n")[:-1]:
            while len(line) >= PIECE:
                piece = cut_piece(line)
                found.append(self._entry(stream, piece, time_ns))
                line = line[len(piece) :]
            found.append(self._entries(stream, line + b"\n", time_ns))
        return found


def _quote(text: str) -> bytes:
    return escape(text.encode(errors="surrogateescape")).replace(b"\n", b"\\n").replace(b"\\u0009", b"\\t")


def _next_end(entries: bytes, position: int) -> int:
    return entries.find(b"\n", position) + 1
