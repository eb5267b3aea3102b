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
from collections.abc import Sequence

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


class Lead(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One element: what arrives at a port of the host goes to a container's. Without `address`: at any."""

    protocol: str
    address: str = ""  # the host's
    port: int
    to_address: str
    to_port: int

    @property
    def map(self) -> str:
        """The name of the map it belongs to."""
        family = 6 if ":" in self.to_address else 4
        return f"ports{family}" if self.address else f"any{family}"

    @property
    def key_text(self) -> str:
        at = f"{self.address} . " if self.address else ""
        return f"{at}{self.protocol} . {self.port}"

    @property
    def text(self) -> str:
        """As nft writes it."""
        return f"{self.key_text} : {self.to_address} . {self.to_port}"

    def key(self) -> bytes:
        at = ipaddress.ip_address(self.address).packed if self.address else b""
        return at + struct.pack(">B3xH2x", _PROTOCOLS[self.protocol], self.port)

    def data(self) -> bytes:
        return ipaddress.ip_address(self.to_address).packed + struct.pack(">H2x", self.to_port)


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

    def add(self, leads: Sequence[Lead]) -> None:
        """FileExistsError when an element is there with another target, FileNotFoundError without our table."""
        for start in range(0, len(leads), _PER_BATCH):
            self._ask(_NEW_ELEMENT, _CREATE, leads[start : start + _PER_BATCH])

    def remove(self, leads: Sequence[Lead]) -> None:
        """Those that are not there are passed over."""
        for start in range(0, len(leads), _PER_BATCH):
            batch = leads[start : start + _PER_BATCH]
            try:
                self._ask(_DELETE_ELEMENT, 0, batch)
            except FileNotFoundError:
                for lead in batch if len(batch) > 1 else ():
                    try:
                        self._ask(_DELETE_ELEMENT, 0, [lead])
                    except FileNotFoundError:
                        pass

    def close(self) -> None:
        self._socket.close()

    def _ask(self, kind: int, flags: int, leads: Sequence[Lead]) -> None:
        messages = [_batch(_BATCH_BEGIN, 0)]
        messages += [
            _message(kind, flags | _REQUEST | _ACK, number, _INET, self._body(lead, kind == _NEW_ELEMENT))
            for number, lead in enumerate(leads, 1)
        ]
        messages.append(_batch(_BATCH_END, len(leads) + 1))
        self._socket.send(b"".join(messages))
        code, culprit = self._answers()
        if code:
            what = leads[culprit - 1].text if 0 < culprit <= len(leads) else "a batch"
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

    def _body(self, lead: Lead, with_data: bool) -> bytes:
        element = _nest(_KEY, _attribute(_VALUE, lead.key()))
        if with_data:
            element += _nest(_DATA, _attribute(_VALUE, lead.data()))
        return (
            _attribute(_LIST_TABLE, self._table)
            + _attribute(_LIST_SET, lead.map.encode() + b"\0")
            + _nest(_LIST_ELEMENTS, _nest(_LIST_ELEMENT, element))
        )


def _batch(kind: int, sequence: int) -> bytes:
    return struct.pack("=IHHII", 20, kind, _REQUEST, sequence, 0) + struct.pack(">BBH", 0, 0, _SUBSYSTEM)


def _message(kind: int, flags: int, sequence: int, family: int, body: bytes) -> bytes:
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, sequence, 0, family, 0, 0) + body


def _nest(kind: int, data: bytes) -> bytes:
    return _attribute(kind | _NESTED, data)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
