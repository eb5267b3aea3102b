"""HTTP/1.1 over one socket, as much of it as the Engine API uses.

Requests with bodies of known or unknown length, answers by length, in chunks or until the connection closes,
streams read as they arrive, and connections taken over after `101` (RFC 9110, section 7.8; RFC 9112). What
the peer sends is bounded: head, chunk sizes and, in `Response.read`, the whole body.
"""

from __future__ import annotations

import _socket
import select

from wherry.errors import Unavailable, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    class Socket(Protocol):
        """What is used of a socket; a TLS one will do too."""

        def recv(self, bufsize: int, /) -> bytes: ...
        def sendall(self, data: bytes | memoryview, /) -> None: ...
        def fileno(self) -> int: ...
        def shutdown(self, how: int, /) -> None: ...
        def close(self) -> None: ...
        def settimeout(self, value: float | None, /) -> None: ...
        def send(self, data: bytes | memoryview, /) -> int: ...


MAX_HEAD = 64 * 1024
MAX_BODY = 512 * 1024 * 1024
READ_SIZE = 64 * 1024
SHUT_WR = _socket.SHUT_WR


class ProtocolError(WherryError):
    """The peer does not speak HTTP/1.1, or stopped in the middle of it."""


class Disconnected(Unavailable):
    """The peer closed the connection before it answered."""


class Connection:
    """One connection, used for one request after another. Not for more than one thread."""

    def __init__(self, sock: Socket, host: str) -> None:
        self.sock = sock
        self.host = host
        self.buffer = b""
        self.busy = False
        self.reusable = True

    def is_idle(self) -> bool:
        """Whether another request may be sent: the last answer was read, and the peer is silent since."""
        if self.busy or not self.reusable or self.buffer:
            return False
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Give the socket back to the kernel. May be called more than once."""
        self.reusable = False
        self.sock.close()

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Send one request and read the answer's head."""
        self.send(method, target, headers, body)
        return self.receive(method)

    def send(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | Iterable[bytes] | None = None,
    ) -> None:
        """Send one request. An iterable body goes out in chunks as it is produced.

        A server that refuses early may close before it has read a long body: `receive` still finds its answer.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}", "User-Agent: wherry"]
        lines += [f"{name}: {value}" for name, value in headers]
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        elif body is not None or method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body) if isinstance(body, bytes) else 0}")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        self.busy = True
        try:
            if isinstance(body, bytes):
                self.sock.sendall(head + body)
            else:
                self.sock.sendall(head)
                for piece in body or ():
                    if piece:
                        self.sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                if chunked:
                    self.sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.reusable = False

    def receive(self, method: str) -> Response:
        """The head of the answer to a request of that method."""
        while True:
            head = self._read_until(b"\r\n\r\n", MAX_HEAD)
            lines = head.decode("latin-1").split("\r\n")
            parts = lines[0].split(" ", 2)
            if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not _is_status(parts[1]):
                raise ProtocolError(f"malformed HTTP response {lines[0][:80]!r}")
            status = int(parts[1])
            headers: dict[str, str] = {}
            for line in lines[1:]:
                name, separator, value = line.partition(":")
                if not separator:
                    raise ProtocolError(f"malformed HTTP header {line[:80]!r}")
                headers[name.lower()] = value.strip()
            if 100 <= status < 200 and status != 101:
                continue
            return Response(self, method, status, headers, old=parts[0] == "HTTP/1.0")

    def _read_until(self, mark: bytes, limit: int) -> bytes:
        buffer = self.buffer
        while (end := buffer.find(mark)) < 0:
            if len(buffer) > limit:
                raise ProtocolError(f"HTTP head longer than {limit} bytes")
            piece = self._recv()
            if not piece:
                if buffer:
                    raise ProtocolError("unexpected EOF")
                raise Disconnected("EOF")
            buffer += piece
        if end > limit:
            raise ProtocolError(f"HTTP head longer than {limit} bytes")
        self.buffer = buffer[end + len(mark) :]
        return buffer[:end]

    def _recv(self) -> bytes:
        try:
            return self.sock.recv(READ_SIZE)
        except ConnectionResetError:
            return b""

    def read_some(self, limit: int) -> bytes:
        """At most `limit` bytes, at least one; empty when the peer has closed."""
        if self.buffer:
            piece, self.buffer = self.buffer[:limit], self.buffer[limit:]
            return piece
        piece = self._recv()
        if len(piece) > limit:
            piece, self.buffer = piece[:limit], piece[limit:]
        return piece

    def read_line(self) -> bytes:
        return self._read_until(b"\r\n", 8192)


class Response:
    """An answer whose body is still on the connection; read it, or close the connection."""

    def __init__(
        self, connection: Connection, method: str, status: int, headers: dict[str, str], *, old: bool
    ) -> None:
        self.connection = connection
        self.status = status
        self.headers = headers
        self._left = 0  # bytes to come in this body or chunk
        self._chunked = False
        self._to_close = False
        self._over = False
        if old or "close" in headers.get("connection", "").lower():
            connection.reusable = False
        if status == 101:
            connection.reusable = False
        elif method == "HEAD" or status in (204, 304):
            self._finish()
        elif "chunked" in headers.get("transfer-encoding", "").lower():
            self._chunked = True
        elif "content-length" in headers:
            length = headers["content-length"]
            if not (length.isascii() and length.isdigit()):
                raise ProtocolError(f"malformed Content-Length {length[:40]!r}")
            self._left = int(length)
            if not self._left:
                self._finish()
        else:
            self._to_close = True
            connection.reusable = False

    def _finish(self) -> None:
        self._over = True
        self.connection.busy = False

    def read_some(self) -> bytes:
        """The next bytes of the body as soon as there are any; empty at its end."""
        if self._over:
            return b""
        if self._to_close:
            piece = self.connection.read_some(READ_SIZE)
            if not piece:
                self._finish()
            return piece
        if self._chunked and not self._left:
            self._left = self._next_chunk()
            if not self._left:
                self._finish()
                return b""
        piece = self.connection.read_some(min(self._left, READ_SIZE))
        if not piece:
            self.connection.reusable = False
            raise ProtocolError("unexpected EOF")
        self._left -= len(piece)
        if not self._left:
            if self._chunked:
                if self.connection.read_line():
                    raise ProtocolError("malformed chunk")
            else:
                self._finish()
        return piece

    def _next_chunk(self) -> int:
        try:
            text = self.connection.read_line().split(b";", 1)[0].strip()
        except Disconnected:
            raise ProtocolError("unexpected EOF") from None
        try:
            size = int(text, 16)
        except ValueError:
            size = -1
        if size < 0 or len(text) > 16:
            raise ProtocolError(f"malformed chunk size {text[:40]!r}")
        if not size:
            while self.connection.read_line():  # trailers
                pass
        return size

    def read(self, limit: int = MAX_BODY) -> bytes:
        """The rest of the body. Raises ProtocolError if it is longer than `limit`."""
        pieces: list[bytes] = []
        total = 0
        while piece := self.read_some():
            total += len(piece)
            if total > limit:
                raise ProtocolError(f"answer longer than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives."""
        while piece := self.read_some():
            yield piece

    def hijack(self) -> tuple[Socket, bytes]:
        """Take the connection over after 101 or the older 200: the socket, and what was read already."""
        self.connection.reusable = False
        early, self.connection.buffer = self.connection.buffer, b""
        return self.connection.sock, early


def _is_status(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isdigit()


def connect_unix(path: str) -> Socket:
    """Connect to a unix socket. Raises OSError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_tcp(host: str, port: int, timeout_s: float) -> Socket:
    """Connect to the first of the host's addresses that answers. Raises OSError."""
    problem = OSError(f"no address for {host!r}")
    for family, kind, proto, _name, where in _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM):
        sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, proto)
        try:
            sock.settimeout(timeout_s)
            sock.connect(where)
            sock.settimeout(None)
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            return sock
        except OSError as exc:
            sock.close()
            problem = exc
    raise problem
