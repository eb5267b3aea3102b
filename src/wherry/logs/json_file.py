r"""The `json-file` driver's writer: one JSON object a line, byte for byte what Docker writes (compared with
20.10).

    {"log":"text\n","stream":"stdout","attrs":{"tag":"web"},"time":"2026-11-24T22:16:10.998525954Z"}

`attrs` is there if the container has any. A line of PIECE bytes or more is logged in pieces of PIECE bytes,
of which the last alone ends in \n; so is what has no newline when the output ends. The time is that of the
read that brought the end of the line. Differences from Docker: a piece ends before a UTF-8 character rather
than inside; and logs are bounded by default (see DEFAULT_*), since a container that fills the host's disk
takes everybody down.

Options: `max-size` (bytes or 10k, 10m, 1g; -1: unbounded), `max-file`, `compress` (rotated files become .gz),
and `labels`, `labels-regex`, `env`, `env-regex`, `tag`, which the daemon turns into `attrs`.
Files are PATH, PATH.1 (the newest of the old ones), PATH.2, …; reading.py gives them back.

The shim writes in bulk: what one read brought is escaped and wrapped with a handful of bytes.replace, so that
lines cost no Python each.
"""

from __future__ import annotations

import os
import time
import zlib

from wherry.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.logs.driver import LogReader

PIECE = 16384
DEFAULT_MAX_SIZE = 100_000_000
DEFAULT_MAX_FILE = 5

_DETAILS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_OPTIONS = _DETAILS | {"max-size", "max-file", "compress", "mode", "max-buffer-size"}

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


def parse_size(text: str) -> int:
    """Bytes for `10k`, `10m`, `1.5g`, `10mb`: powers of 1000, as Docker reads max-size."""
    number = text.strip().lower()
    for suffix in ("b", "i"):
        number = number.removesuffix(suffix)
    power = "kmgtp".find(number[-1:]) + 1 if number else 0
    if power:
        number = number[:-1].rstrip()
    if not number or not number.isascii() or number.strip("0123456789.") or number.count(".") > 1:
        raise InvalidParameter(f"invalid size: '{text}'")  # Docker's text
    return int(float(number) * 1000**power)


class JsonFile:
    """See driver.py."""

    readable = True

    def __init__(self, path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> None:
        self._path = path
        self._max_size, self._max_file, self._compress = _limits(options)
        details = b""
        if attrs:
            pairs = (b'"%s":"%s"' % (_quote(key), _quote(attrs[key])) for key in sorted(attrs))
            details = b',"attrs":{%s}' % b",".join(pairs)
        self._tails = {
            stream: b'","stream":"%s"%s,"time":"' % (stream.encode(), details)
            for stream in ("stdout", "stderr")
        }
        self._rest = {"stdout": b"", "stderr": b""}
        self._compressor = 0
        self._last_time_ns = 0
        self._fd = -1
        self._size = 0
        self.lost_bytes = 0
        """What could not be written, for want of space for example."""
        self._open()

    @staticmethod
    def validate(options: Mapping[str, str]) -> None:
        """Raise InvalidParameter for what Docker refuses, in its words."""
        for name in options:
            if name not in _OPTIONS:
                raise InvalidParameter(f"unknown log opt '{name}' for json-file log driver")
        mode = options.get("mode", "blocking")
        if mode not in ("blocking", "non-blocking", ""):
            raise InvalidParameter(f"logger: logging mode not supported: {mode}")
        if "max-buffer-size" in options:
            if mode != "non-blocking":
                raise InvalidParameter(
                    "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
                )
            parse_size(options["max-buffer-size"])
        _limits(options)

    @staticmethod
    def reader(path: str, *, since_ns: int = 0, until_ns: int = 0, tail: int = -1) -> LogReader:
        # Only the daemon reads. The shim, which imports nothing late, never comes here.
        from wherry.logs.reading import JsonFileReader

        return JsonFileReader(path, since_ns=since_ns, until_ns=until_ns, tail=tail)

    def write(self, stream: str, data: memoryview, time_ns: int) -> None:
        """Log the lines that `data` completes; keep the beginning of the next."""
        self._last_time_ns = time_ns
        chunk = self._rest[stream] + data
        cut = chunk.rfind(b"\n") + 1
        rest = chunk[cut:] if cut else chunk
        if cut:
            lines = chunk[:cut] if rest else chunk
            if _is_within_piece(lines):
                self._append(self._entries(stream, lines, time_ns))
            else:
                self._append(b"".join(self._pieces(stream, lines, time_ns)))
        while len(rest) >= PIECE:
            piece = _piece(rest)
            self._append(self._entry(stream, piece, time_ns))
            rest = rest[len(piece) :]
        self._rest[stream] = rest

    def close(self) -> None:
        """Log the beginnings of lines that will not be completed."""
        for stream, rest in self._rest.items():
            if rest:
                self._append(self._entry(stream, rest, self._last_time_ns))
                self._rest[stream] = b""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._await_compressor()

    def fileno(self) -> int:
        return self._fd

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
                piece = _piece(line)
                found.append(self._entry(stream, piece, time_ns))
                line = line[len(piece) :]
            found.append(self._entries(stream, line + b"\n", time_ns))
        return found

    # The file

    def _open(self) -> None:
        try:
            self._fd = os.open(
                self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640
            )
            self._size = os.fstat(self._fd).st_size
        except OSError:
            self._fd = -1  # tried again with the next entry

    def _append(self, entries: bytes) -> None:
        """Write entries, beginning a new file after the entry that crosses the limit, as Docker does."""
        start = 0
        while start < len(entries):
            if 0 <= self._max_size <= self._size:
                self._rotate()
            end = len(entries)
            if self._max_size >= 0:
                room = self._max_size - self._size
                if end - start > room:
                    end = entries.find(b"\n", start + max(room, 1) - 1) + 1
            self._write(entries[start:end] if (start, end) != (0, len(entries)) else entries)
            start = end

    def _write(self, entries: bytes) -> None:
        if self._fd < 0:
            self._open()
        written = 0
        try:
            while written < len(entries):
                written += os.write(self._fd, memoryview(entries)[written:])
            self._size += written
        except OSError:
            # No space, most likely. Whole entries are lost, never halves of them, and the container lives.
            self.lost_bytes += len(entries)
            if written:
                try:
                    os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                except OSError:
                    pass

    def _rotate(self) -> None:
        try:
            self._size = os.fstat(self._fd).st_size if self._fd >= 0 else 0
            if self._size < self._max_size:
                return  # somebody truncated it
            self._await_compressor()
            if self._max_file == 1:
                os.unlink(self._path)  # not truncated: whoever reads it keeps what was there
            else:
                self._shift()
        except OSError:
            return  # goes on in the same file
        os.close(self._fd)
        self._open()
        if self._compress:
            self._compressor = _compress(f"{self._path}.1")

    def _shift(self) -> None:
        for number in range(self._max_file - 1, 1, -1):
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


def _limits(options: Mapping[str, str]) -> tuple[int, int, bool]:
    """max-size (-1: unbounded), max-file, compress."""
    max_size, max_file = -1, 1
    if "max-size" in options:
        if options["max-size"] != "-1":
            max_size = parse_size(options["max-size"])
            if max_size <= 0:
                raise InvalidParameter("max-size must be a positive number")
    else:
        max_size, max_file = DEFAULT_MAX_SIZE, DEFAULT_MAX_FILE
    if "max-file" in options:
        text = options["max-file"]
        if not text.isascii() or not text.removeprefix("-").isdigit():
            raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
        max_file = int(text)
        if max_file < 1:
            raise InvalidParameter("max-file cannot be less than 1")
        if max_file > 1000:
            raise InvalidParameter(f"max-file {max_file} is too large: use at most 1000")
    compress = options.get("compress", "false")
    if compress not in ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"):
        raise InvalidParameter(f'strconv.ParseBool: parsing "{compress}": invalid syntax')
    is_compressed = compress[0] in "1tT"
    if is_compressed and (max_file == 1 or max_size == -1):
        raise InvalidParameter("compress cannot be true when max-file is less than 2 or max-size is not set")
    return max_size, max_file, is_compressed


def _quote(text: str) -> bytes:
    return escape(text.encode(errors="surrogateescape")).replace(b"\n", b"\\n").replace(b"\\u0009", b"\\t")


def _is_within_piece(lines: bytes) -> bool:
    """True if every line is shorter than PIECE. A few searches: each goes as far as one piece."""
    start, end = 0, len(lines)
    while end - start > PIECE:
        newline = lines.rfind(b"\n", start, start + PIECE)
        if newline < 0:
            return False
        start = newline + 1
    return True


def _piece(line: bytes) -> bytes:
    """The first PIECE bytes of `line`, less a character that does not end within them."""
    for back in (1, 2, 3):
        byte = line[PIECE - back]
        if byte & 0xC0 != 0x80:  # the character's first byte, which tells its length
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return line[: PIECE - back] if length > back else line[:PIECE]
    return line[:PIECE]


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
