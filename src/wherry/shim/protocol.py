"""How the daemon, the launcher and the shims talk: frames of JSON with descriptors, over unix sockets.

    frame   = length (4 bytes, big-endian) + that many bytes of JSON, one object
    request = {"op": name, "seq": number, …}        the reply has the same seq
    reply   = {"seq": number, …} or {"seq": number, "error": {"kind": …, "message": …}}
    event   = {"event": name, …}                    no seq, never answered

A frame with descriptors says how many in `fds`; they ride by SCM_RIGHTS on its first byte and are taken in
the order of the frames, so that nothing depends on how the kernel cuts the stream. Whoever receives a
descriptor owns it. Requests may be sent without waiting for earlier replies and are carried out in order. The
first request on a connection is `hello` with the sender's `version` (the protocol's, a number, towards a
shim; the code's, a text, towards a launcher) and its reply says the other side's. A shim speaks its own
version for as long as it lives: a newer daemon adapts.

The operations and events are listed in ARCHITECTURE.md, "Shim protocol". Both sides use this module, so it
imports next to nothing. Limits: a frame holds at most MAX_FRAME bytes and MAX_FDS descriptors; what breaks a
limit or the framing ends the connection (ProtocolError).
"""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

VERSION = 1

MAX_FRAME = 8 << 20
"""The largest request is an exec's process object: the kernel bounds arguments and environment at 6 MiB."""
MAX_FDS = 128
"""The kernel's own bound is 253 (SCM_MAX_FD)."""
MAX_BACKLOG = 2 * MAX_FRAME
"""Bytes queued for a peer that does not read, before it is given up."""

NOT_FOUND, PERMISSION, INVALID, CONFLICT, INTERNAL = (
    "not-found",
    "permission",
    "invalid",
    "conflict",
    "internal",
)

_LENGTH = struct.Struct(">I")
_READ = 65536


class ProtocolError(Exception):
    """The other side broke the framing or a limit: the connection is of no more use."""


class Refused(Exception):
    """A request that cannot be carried out, with the kind its reply will name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def to_json(value: object) -> bytes:
    """`value` as JSON. Raises TypeError for what JSON cannot hold."""
    return "".join(_encoder(value, 0)).encode()


def from_json(data: bytes) -> Any:
    """The value that `data` holds. Raises ValueError, RecursionError."""
    text = data.decode().strip()
    value, end = _decoder.raw_decode(text)
    if end != len(text):
        raise ValueError(f"something follows the value at {end}")
    return value


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


# json.dumps and json.loads make a new encoder for each value and run regular expressions: they touch three times
# the memory of these, which a shim, whose pages are shared until touched, would own from then on.
_decoder = json.JSONDecoder()
_encoder: Any = vars(json.encoder)["c_make_encoder"](
    None, _unknown, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, True
)


def encode(message: dict[str, Any], fds: int = 0) -> bytes:
    """`message` as one frame. Raises ProtocolError if it is too large to be read by the other side."""
    if fds:
        message = {**message, "fds": fds}
    body = to_json(message)
    if len(body) > MAX_FRAME or fds > MAX_FDS:
        raise ProtocolError(
            f"message of {len(body)} bytes and {fds} descriptors exceeds {MAX_FRAME} and {MAX_FDS}"
        )
    return _LENGTH.pack(len(body)) + body


def is_object(value: Any) -> bool:
    """True for a JSON object. (A function, since isinstance would make its items unknown to type checkers.)"""
    return isinstance(value, dict)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that were received and are not wanted."""
    for fd in fds:
        os.close(fd)


class Channel:
    """One end of a connection. Never blocks; the owner's loop calls `receive` when readable, `flush` when
    writable.

    `send` borrows descriptors: the caller may close its own as soon as it returns.
    """

    __slots__ = ("_fds", "_in", "_out", "_out_size", "closed", "sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.closed = False
        self._in = bytearray()
        self._fds: list[int] = []
        self._out: list[tuple[memoryview, list[int]]] = []
        self._out_size = 0

    def fileno(self) -> int:
        return self.sock.fileno()

    @property
    def wants_write(self) -> bool:
        """True while something waits for the socket to become writable."""
        return bool(self._out)

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send what the socket takes, queue the rest. Raises OSError or ProtocolError if the peer is lost."""
        frame = encode(message, len(fds))
        sent = 0 if self._out else self._send(memoryview(frame), fds)
        if sent < len(frame):
            self._out_size += len(frame) - sent
            if self._out_size > MAX_BACKLOG:
                raise ProtocolError(f"{self._out_size} bytes wait for a peer that does not read")
            # Descriptors went out with the first byte; if no byte went, keep copies until one does.
            kept = [] if sent else [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
            self._out.append((memoryview(frame)[sent:], kept))

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it. Raises OSError if the peer is lost."""
        while self._out:
            data, fds = self._out[0]
            sent = self._send(data, fds)
            self._out_size -= sent
            if sent == 0:
                return
            close_all(fds)
            if sent < len(data):
                self._out[0] = (data[sent:], [])
                return
            del self._out[0]

    def _send(self, data: memoryview, fds: Sequence[int]) -> int:
        try:
            if fds:
                rights = array.array("i", fds)
                return self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            return self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            if (
                exc.errno == errno.ETOOMANYREFS
            ):  # descriptors in flight, unread by somebody: wait like a full buffer
                return 0
            raise

    def receive(self) -> list[tuple[dict[str, Any], list[int]]] | None:
        """The messages that have arrived, each with its descriptors; None when the peer has hung up.

        Raises ProtocolError, and OSError for a connection that was reset.
        """
        try:
            data, ancillary, flags, _ = self.sock.recvmsg(
                _READ, socket.CMSG_SPACE(4 * MAX_FDS), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                rights = array.array("i")
                rights.frombytes(content[: len(content) - len(content) % rights.itemsize])
                self._fds.extend(rights)
        if flags & socket.MSG_CTRUNC or len(self._fds) > 2 * MAX_FDS:
            raise ProtocolError("too many descriptors")
        if not data:
            return None
        self._in += data
        return self._messages()

    def _messages(self) -> list[tuple[dict[str, Any], list[int]]]:
        buffer = self._in
        found: list[tuple[dict[str, Any], list[int]]] = []
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > MAX_FRAME:
                raise ProtocolError(f"frame of {length} bytes exceeds {MAX_FRAME}")
            end = start + _LENGTH.size + length
            if len(buffer) < end:
                break
            try:
                message: Any = from_json(bytes(buffer[start + _LENGTH.size : end]))
            except (ValueError, RecursionError) as exc:
                raise ProtocolError(f"frame is not JSON: {exc}") from exc
            if not is_object(message):
                raise ProtocolError("frame is not an object")
            count: Any = message.pop("fds", 0)
            if type(count) is not int or not 0 <= count <= len(self._fds):
                raise ProtocolError("descriptors of a frame are missing")
            found.append((message, self._fds[:count]))
            del self._fds[:count]
            start = end
        if start:
            del buffer[:start]
        return found

    def close(self) -> None:
        """Close the socket and every descriptor nobody took."""
        if not self.closed:
            self.closed = True
            self.sock.close()
            close_all(self._fds)
            for _, fds in self._out:
                close_all(fds)
            self._fds.clear()
            self._out.clear()
