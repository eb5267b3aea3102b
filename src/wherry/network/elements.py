"""Elements of our nftables maps, added and removed by netlink: a published port costs some 0.1 ms, not a process.

A request is one batch, which the kernel carries out as a whole or not at all. Keys and values of several parts
(a concatenation, as nft calls it) are these parts in the network's byte order, each filled up to four bytes.
Formats: linux/netfilter/nf_tables.h, nfnetlink.h.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Sequence

import msgspec

_NETLINK_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # NFNL_MSG_BATCH_…
_NEW_ELEMENT, _DELETE_ELEMENT = 0x0A0C, 0x0A0E  # NFNL_SUBSYS_NFTABLES, NFT_MSG_…SETELEM
_SUBSYSTEM = 10
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_NESTED = 0x8000
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS, _LIST_ELEMENT = 1, 2, 3, 1  # NFTA_SET_ELEM_LIST_…, NFTA_LIST_ELEM
_KEY, _DATA, _VALUE = 1, 2, 1  # NFTA_SET_ELEM_…, NFTA_DATA_VALUE
_NLMSG_ERROR = 2
_INET = 1  # NFPROTO_INET
_PER_BATCH = 200
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


class Element(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One element of a map, or of a set when `data` is empty. The parts are addresses, protocols and ports."""

    map: str
    key: tuple[str | int, ...]
    data: tuple[str | int, ...] = ()

    @property
    def text(self) -> str:
        """As nft writes it."""
        key = " . ".join(map(str, self.key))
        return f"{key} : {' . '.join(map(str, self.data))}" if self.data else key


class Lead(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What arrives at a port of the host goes to a container's. Without `address`: at any address of the host."""

    protocol: str
    address: str = ""
    port: int
    to_address: str
    to_port: int

    def elements(self) -> tuple[Element, Element]:
        """What makes the firewall do so: where to, and that the container itself comes another way (port_rules.py)."""
        family = 6 if ":" in self.to_address else 4
        way = Element(
            map=f"ports{family}" if self.address else f"any{family}",
            key=(self.address, self.protocol, self.port) if self.address else (self.protocol, self.port),
            data=(self.to_address, self.to_port),
        )
        return way, Element(map=f"selves{family}", key=(self.to_address, self.protocol, self.port))


def elements_of(leads: Iterable[Lead]) -> list[Element]:
    """All that makes the firewall lead `leads`, each once."""
    return list(dict.fromkeys(element for lead in leads for element in lead.elements()))


class Elements:
    """A connection to the kernel's nf_tables, for one table."""

    def __init__(self, table: str) -> None:
        self._table = table.encode() + b"\0"
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise
        self.port_id = int(self._socket.getsockname()[0])
        """By which the kernel names us to those who watch for changes."""

    def add(self, elements: Sequence[Element]) -> None:
        """FileExistsError when an element is there with another target, FileNotFoundError without our table."""
        for start in range(0, len(elements), _PER_BATCH):
            self._ask(_NEW_ELEMENT, _CREATE, elements[start : start + _PER_BATCH])

    def remove(self, elements: Sequence[Element]) -> None:
        """Those that are not there are passed over."""
        for start in range(0, len(elements), _PER_BATCH):
            batch = elements[start : start + _PER_BATCH]
            try:
                self._ask(_DELETE_ELEMENT, 0, batch)
            except FileNotFoundError:
                for element in batch if len(batch) > 1 else ():
                    try:
                        self._ask(_DELETE_ELEMENT, 0, [element])
                    except FileNotFoundError:
                        pass

    def close(self) -> None:
        self._socket.close()

    def _ask(self, kind: int, flags: int, elements: Sequence[Element]) -> None:
        messages = [_batch(_BATCH_BEGIN, 0)]
        messages += [
            _message(kind, flags | _REQUEST | _ACK, number, _INET, self._body(element, kind == _NEW_ELEMENT))
            for number, element in enumerate(elements, 1)
        ]
        messages.append(_batch(_BATCH_END, len(elements) + 1))
        self._socket.send(b"".join(messages))
        code, culprit = self._answers()
        if code:
            what = elements[culprit - 1].text if 0 < culprit <= len(elements) else "a batch"
            raise OSError(code, f"nftables: {what}: {os.strerror(code)}")

    def _answers(self) -> tuple[int, int]:
        """The first error among the answers, and which message it is about. All lie in our queue by now."""
        code, culprit = 0, 0
        while True:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return code, culprit
            while len(data) >= 20:
                length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data)
                error = -struct.unpack_from("=i", data, 16)[0]
                if kind == _NLMSG_ERROR and error and not code:
                    code, culprit = error, sequence
                data = data[(length + 3) & ~3 :]

    def _body(self, element: Element, with_data: bool) -> bytes:
        body = _nest(_KEY, _attribute(_VALUE, _pack(element.key)))
        if with_data and element.data:
            body += _nest(_DATA, _attribute(_VALUE, _pack(element.data)))
        return (
            _attribute(_LIST_TABLE, self._table)
            + _attribute(_LIST_SET, element.map.encode() + b"\0")
            + _nest(_LIST_ELEMENTS, _nest(_LIST_ELEMENT, body))
        )


def _pack(parts: Sequence[str | int]) -> bytes:
    packed = b""
    for part in parts:
        if isinstance(part, int):
            packed += struct.pack(">H2x", part)
        elif part in _PROTOCOLS:
            packed += struct.pack("B3x", _PROTOCOLS[part])
        else:
            packed += ipaddress.ip_address(part).packed
    return packed


def _batch(kind: int, sequence: int) -> bytes:
    return struct.pack("=IHHII", 20, kind, _REQUEST, sequence, 0) + struct.pack(">BBH", 0, 0, _SUBSYSTEM)


def _message(kind: int, flags: int, sequence: int, family: int, body: bytes) -> bytes:
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, sequence, 0, family, 0, 0) + body


def _nest(kind: int, data: bytes) -> bytes:
    return _attribute(kind | _NESTED, data)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
