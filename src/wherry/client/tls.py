"""TLS to an engine on TCP. Apart, because `ssl` costs 20 ms to import.

The records go through buffers in memory, not through ssl's own socket: only so can our side be closed while
the other goes on sending (`SSLSocket.unwrap` eats what arrives meanwhile), and can a socket that must not
block be half written.
"""

from __future__ import annotations

import os
import ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client.api import Tls
    from wherry.client.http import Socket

RECORD = 16 * 1024
READ_SIZE = 64 * 1024


class TlsSocket:
    """A TLS connection that behaves as the plain one below it to whoever reads, writes or polls it."""

    def __init__(self, sock: Socket, context: ssl.SSLContext, host: str) -> None:
        self._sock = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._unsent = b""

    def shake_hands(self) -> None:
        """Agree on keys, on a connection that may block. Raises OSError (ssl.SSLError is one)."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._sock.sendall(self._out.read())
                self._fill()
            else:
                self._sock.sendall(self._out.read())
                return

    def _fill(self) -> None:
        data = self._sock.recv(READ_SIZE)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    def recv(self, bufsize: int, /) -> bytes:
        """Everything that has been decrypted, since no poll would tell of the rest: about `READ_SIZE` at most,
        whatever is asked for.
        """
        pieces: list[bytes] = []
        while True:
            try:
                piece = self._tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                if pieces:
                    break
                self.flush()
                self._fill()
                continue
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                break
            if not piece:
                break
            pieces.append(piece)
        return b"".join(pieces)

    def send(self, data: bytes | memoryview, /) -> int:
        """Take one record's worth. Raises BlockingIOError while an earlier one waits to go out."""
        if self.flush():
            raise BlockingIOError
        taken = self._tls.write(data[:RECORD])
        self.flush()
        return taken

    def flush(self) -> int:
        """Send what is encrypted; gives how many bytes still wait, which a poll for writing will tell of."""
        self._unsent += self._out.read()
        try:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        except BlockingIOError:
            pass
        return len(self._unsent)

    def sendall(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        for start in range(0, len(view), RECORD):
            self._tls.write(view[start : start + RECORD])
            self._sock.sendall(self._unsent + self._out.read())
            self._unsent = b""

    def fileno(self) -> int:
        return self._sock.fileno()

    def shutdown(self, how: int, /) -> None:
        """Say that nothing more comes from us (close_notify), and go on reading."""
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # the other side has not said the same yet, which is what we want
        self.flush()

    def close(self) -> None:
        self._sock.close()

    def settimeout(self, value: float | None, /) -> None:
        self._sock.settimeout(value)


def wrap(sock: Socket, host: str, tls: Tls) -> Socket:
    """Shake hands on a connected socket. Raises OSError (ssl.SSLError is one)."""
    context = ssl.create_default_context(cafile=tls.ca if tls.verify and tls.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert and os.path.exists(tls.cert):
        context.load_cert_chain(tls.cert, tls.key or None)
    wrapped = TlsSocket(sock, context, host)
    try:
        wrapped.shake_hands()
    except BaseException:
        sock.close()
        raise
    return wrapped
