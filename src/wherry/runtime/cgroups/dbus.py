"""As much D-Bus as it takes to call systemd: one connection to its private socket, calls, and signals waited
for.

D-Bus specification, "Message Protocol" and "Authentication Protocol". Values are given with their signature
and read back as plain Python values; only the types that systemd's manager needs here are known.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CALL, _RETURN, _ERROR, _SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = (
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
)
_ALIGNMENT = {"y": 1, "b": 4, "u": 4, "t": 8, "s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8}
_MAX_MESSAGE = 1 << 20
_TIMEOUT_S = 30.0
_NUDGE_MS = 50
_NO_REPLY = 1
_ROOT = "/org/freedesktop/DBus"


class BusError(OSError):
    """The other side answered with an error; `name` is its D-Bus name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name = name


class Connection:
    """A connection straight to one peer, without a bus in between."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._serial = 0
        self._signals: list[_Message] = []
        try:
            self._socket.settimeout(_TIMEOUT_S)
            self._socket.connect(path)
            self._authenticate()
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def call(self, path: str, interface: str, member: str, signature: str, values: list[Any]) -> list[Any]:
        """Call a method; its results. Signals that come meanwhile are kept for `wait_signal`."""
        serial = self._send(0, path, interface, member, signature, values)
        self._await_answer()
        while True:
            message = self._receive()
            if message.kind == _SIGNAL:
                self._signals.append(message)
            elif message.fields.get(_REPLY_SERIAL) != serial:
                continue
            elif message.kind == _ERROR:
                text = message.values()[:1] if message.signature.startswith("s") else []
                raise BusError(str(message.fields.get(_ERROR_NAME)), "".join(text))
            else:
                return message.values()

    def _send(
        self, flags: int, path: str, interface: str, member: str, signature: str, values: list[Any]
    ) -> int:
        self._serial += 1
        body = marshal(signature, values)
        fields: list[Any] = [
            (_PATH, ("o", path)),
            (_INTERFACE, ("s", interface)),
            (_MEMBER, ("s", member)),
            (_DESTINATION, ("s", "org.freedesktop.systemd1")),
        ]
        if signature:
            fields.append((_SIGNATURE, ("g", signature)))
        head = struct.pack("<BBBBII", ord("l"), _CALL, flags, 1, len(body), self._serial)
        writer = _Writer(head)
        writer.write("a(yv)", fields)
        writer.pad(8)
        self._socket.sendall(bytes(writer.data) + body)
        return self._serial

    def _await_answer(self) -> None:
        """Wait until there is something to read.

        systemd's side sits on a message that came together with the end of the authentication, until more comes:
        so something more is sent while it is silent.
        """
        waiter = select.poll()
        waiter.register(self._socket, select.POLLIN)
        deadline = time.monotonic() + _TIMEOUT_S
        while not waiter.poll(_NUDGE_MS):
            if time.monotonic() > deadline:
                raise BusError("connection", "no answer")
            self._send(_NO_REPLY, _ROOT, "org.freedesktop.DBus.Peer", "Ping", "", [])

    def wait_signal(self, member: str) -> list[Any]:
        """The arguments of the next signal of this name."""
        while True:
            message = self._signals.pop(0) if self._signals else self._receive()
            if message.kind == _SIGNAL and message.fields.get(_MEMBER) == member:
                return message.values()

    def _authenticate(self) -> None:
        """EXTERNAL: the kernel tells the other side who we are."""
        self._socket.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        line = b""
        while not line.endswith(b"\r\n"):
            data = self._socket.recv(1)
            if not data or len(line) > 512:
                raise BusError("authentication", "no answer")
            line += data
        if not line.startswith(b"OK "):
            raise BusError("authentication", line.decode("ascii", "replace").strip())
        self._socket.sendall(b"BEGIN\r\n")

    def _receive(self) -> _Message:
        head = self._read(16)
        order, kind, _, _, body_size, _, fields_size = struct.unpack("<BBBBIII", head)
        if order != ord("l") or body_size > _MAX_MESSAGE or fields_size > _MAX_MESSAGE:
            raise BusError("protocol", "unexpected message")
        rest = self._read((fields_size + 7) // 8 * 8 + body_size)
        fields = dict(_Reader(head + rest, 12).read("a(yv)"))
        body = rest[len(rest) - body_size :] if body_size else b""
        return _Message(kind, fields, body)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._socket.recv(size - len(data))
            if not part:
                raise BusError("connection", "closed by the other side")
            data += part
        return data


class _Message:
    """One message; what it carries is read only when it is wanted, as others have types that we do not know."""

    __slots__ = ("_body", "fields", "kind")

    def __init__(self, kind: int, fields: dict[int, Any], body: bytes) -> None:
        self.kind = kind
        self.fields = fields
        self._body = body

    @property
    def signature(self) -> str:
        return str(self.fields.get(_SIGNATURE, ""))

    def values(self) -> list[Any]:
        return unmarshal(self.signature, self._body)


def marshal(signature: str, values: list[Any]) -> bytes:
    """`values` in the wire format, little-endian; a variant is given as (signature, value)."""
    writer = _Writer(b"")
    for each, value in zip(split(signature), values, strict=True):
        writer.write(each, value)
    return bytes(writer.data)


def unmarshal(signature: str, data: bytes) -> list[Any]:
    reader = _Reader(data, 0)
    return [reader.read(each) for each in split(signature)]


def split(signature: str) -> list[str]:
    """The complete types of a signature, one by one."""
    found: list[str] = []
    start = at = 0
    while at < len(signature):
        while signature[at] == "a":
            at += 1
        depth = 0
        while True:
            depth += {"(": 1, ")": -1}.get(signature[at], 0)
            at += 1
            if depth == 0:
                break
        found.append(signature[start:at])
        start = at
    return found


class _Writer:
    def __init__(self, start: bytes) -> None:
        self.data = bytearray(start)

    def pad(self, alignment: int) -> None:
        self.data += bytes(-len(self.data) % alignment)

    def write(self, signature: str, value: Any) -> None:
        kind = signature[0]
        self.pad(_ALIGNMENT[kind])
        if kind == "y":
            self.data.append(value)
        elif kind in "bu":
            self.data += struct.pack("<I", value)
        elif kind == "t":
            self.data += struct.pack("<Q", value)
        elif kind in "so":
            text = value.encode()
            self.data += struct.pack("<I", len(text)) + text + b"\0"
        elif kind == "g":
            self.data += bytes([len(value)]) + value.encode() + b"\0"
        elif kind == "v":
            self.write("g", value[0])
            self.write(value[0], value[1])
        elif kind == "(":
            for each, part in zip(split(signature[1:-1]), value, strict=True):
                self.write(each, part)
        else:
            self._write_array(signature[1:], value)

    def _write_array(self, element: str, values: list[Any]) -> None:
        place = len(self.data)
        self.data += bytes(4)
        self.pad(_ALIGNMENT[element[0]])
        start = len(self.data)
        for value in values:
            self.write(element, value)
        struct.pack_into("<I", self.data, place, len(self.data) - start)


class _Reader:
    """Reads `data`, whose first byte counts as lying at an address divisible by eight."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def read(self, signature: str) -> Any:
        kind = signature[0]
        self.at += -self.at % _ALIGNMENT[kind]
        if kind == "y":
            return self._unpack("<B", 1)
        if kind in "bu":
            return self._unpack("<I", 4)
        if kind == "t":
            return self._unpack("<Q", 8)
        if kind in "so":
            return self._text(self._unpack("<I", 4))
        if kind == "g":
            return self._text(self._unpack("<B", 1))
        if kind == "v":
            return self.read(self.read("g"))
        if kind == "(":
            return [self.read(each) for each in split(signature[1:-1])]
        size = self._unpack("<I", 4)
        self.at += -self.at % _ALIGNMENT[signature[1]]
        end = self.at + size
        found: list[Any] = []
        while self.at < end:
            found.append(self.read(signature[1:]))
        return found

    def _unpack(self, form: str, size: int) -> int:
        value = struct.unpack_from(form, self.data, self.at)[0]
        self.at += size
        return value

    def _text(self, size: int) -> str:
        text = self.data[self.at : self.at + size].decode("utf-8", "replace")
        self.at += size + 1
        return text
