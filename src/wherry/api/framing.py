"""Where one HTTP/1.1 request ends and the next begins, decided strictly (RFC 9112 §6, §7).

Pure functions and one small state machine, no I/O. aiohttp's parser reads the same bytes afterwards; this comes
first because a connection that turns into a raw stream must not lose what stands behind the request, and because a
request whose length can be read in two ways must end the connection instead of smuggling a second one.
"""

from __future__ import annotations

import re

MAX_HEAD = 256 * 1024
"""Bytes of request line and headers. Registry credentials and filters travel in them; Go's servers take 1 MiB."""

MAX_FIELDS = 256
"""Header fields of one request."""

HTTP2_HEAD = b"PRI * HTTP/2.0\r\n\r\n"
"""What an HTTP/2 client with prior knowledge begins with: to HTTP/1.1's eyes a head (RFC 9113 §3.4)."""

_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} [\x21-\x7e\x80-\xff]+ HTTP/(\d)\.(\d)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")
_DIGITS = re.compile(rb"\d{1,18}")

MAX_CHUNK_LINE = 4096
MAX_TRAILER = 16 * 1024


class FramingError(Exception):
    """The bytes are no request that can be told apart from the next one. Answered, then the connection ends."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def check_beginning(part: bytes | bytearray) -> None:
    """Refuse early what will never become a head: TLS on a plain socket, bare line feeds, an endless line."""
    if len(part) > MAX_HEAD:
        raise FramingError("request header fields too large", 431)
    if part and not 0x41 <= part[0] & 0xDF <= 0x5A:  # methods are words
        raise FramingError("malformed HTTP request")
    if part.count(b"\n") != part.count(b"\r\n"):
        raise FramingError("malformed HTTP request: bare line feed")


def body_length(head: bytes) -> int | None:
    """How many bytes of body follow `head` (request line and headers, with the empty line); None for chunks.

    Raises FramingError for everything whose length two readers could understand in two ways.
    """
    lines = head[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise FramingError("malformed HTTP request line")
    if match[1] != b"1" or match[2] not in (b"0", b"1"):
        raise FramingError("unsupported HTTP version", 505)
    if lines[0].startswith(b"CONNECT "):
        raise FramingError("method not allowed", 405)
    if len(lines) > MAX_FIELDS:
        raise FramingError("too many header fields", 431)
    length: int | None = 0
    seen: set[bytes] = set()
    for line in lines[1:]:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise FramingError("malformed HTTP header")
        name = field[1].lower()
        if name not in (b"content-length", b"transfer-encoding", b"host"):
            continue
        if name in seen:
            raise FramingError(f"more than one {name.decode()} header")
        seen.add(name)
        value = field[2].rstrip(b" \t")
        if name == b"content-length":
            if _DIGITS.fullmatch(value) is None:
                raise FramingError("malformed content-length header")
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked" or match[2] == b"0":
                raise FramingError("unsupported transfer encoding")
            length = None
    if b"content-length" in seen and b"transfer-encoding" in seen:
        raise FramingError("both content-length and transfer-encoding are given")
    if match[2] == b"1" and b"host" not in seen:
        raise FramingError("missing required host header")
    return length


class Chunks:
    """Counts a chunked body off the stream without copying it."""

    def __init__(self) -> None:
        self.is_done = False
        self._left = 0
        """Bytes of the current chunk and its line end that are still to come."""
        self._in_trailer = False
        self._trailer_size = 0

    def consume(self, data: bytes | bytearray) -> int:
        """How many of `data`'s first bytes belong to this body. Call again with the rest and what came after it."""
        at = 0
        while not self.is_done:
            if self._left:
                take = min(self._left, len(data) - at)
                self._check_line_end(data, at, take)
                at += take
                self._left -= take
                if self._left:
                    break
            end = data.find(b"\n", at, at + MAX_CHUNK_LINE)
            if end < 0:
                if len(data) - at >= MAX_CHUNK_LINE:
                    raise FramingError("chunk header or trailer too long")
                break
            if end == at or data[end - 1] != 0x0D:
                raise FramingError("malformed chunk: bare line feed")
            self._line(bytes(data[at : end - 1]))
            at = end + 1
        return at

    def _check_line_end(self, data: bytes | bytearray, at: int, take: int) -> None:
        """The last two of the bytes that are left must be CR LF."""
        for place, wanted in ((2, 0x0D), (1, 0x0A)):
            index = at + self._left - place
            if at <= index < at + take and data[index] != wanted:
                raise FramingError("malformed chunk: data longer than its size")

    def _line(self, line: bytes) -> None:
        if self._in_trailer:
            self._trailer_size += len(line)
            if not line:
                self.is_done = True
            elif self._trailer_size > MAX_TRAILER or _FIELD.fullmatch(line) is None:
                raise FramingError("malformed trailer")
            return
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None or int(match[1], 16) >= 2**62:
            raise FramingError("malformed chunk size")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._in_trailer = True
