"""Make the host forget the connections of an address, so that its next owner does not inherit them.

Connection tracking keeps a UDP exchange for minutes and a TCP connection for days after its container is
gone. What still arrives for it would be taken for an answer and handed to whoever has the address by then.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

from wherry.network.links import Links

_NETLINK_NETFILTER = 12
_CT_DELETE = 0x0102  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
_REQUEST, _ACK = 0x1, 0x4
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _FILTER = 1, 2, 25  # CTA_…
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SOURCE, _IP_DESTINATION = {4: 1, 6: 3}, {4: 2, 6: 4}
_PROTO_NUM, _PROTO_SOURCE_PORT, _PROTO_DESTINATION_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS, _FILTER_REPLY_FLAGS = 1, 2
_BY_SOURCE, _BY_DESTINATION, _BY_PROTOCOL, _BY_SOURCE_PORT, _BY_DESTINATION_PORT = 1, 2, 8, 16, 32
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class _Tuple:
    """One direction of the connections that are meant; what is left out may be anything."""

    def __init__(
        self,
        *,
        source: str = "",
        destination: str = "",
        protocol: str = "",
        source_port: int = 0,
        destination_port: int = 0,
    ) -> None:
        self.flags = 0
        addresses = ports = b""
        for address, kinds, flag in (
            (source, _IP_SOURCE, _BY_SOURCE),
            (destination, _IP_DESTINATION, _BY_DESTINATION),
        ):
            if address:
                parsed = ipaddress.ip_address(address)
                self.flags |= flag
                addresses += _attribute(kinds[parsed.version], parsed.packed)
        if protocol:
            self.flags |= _BY_PROTOCOL
            ports += _attribute(_PROTO_NUM, struct.pack("B", _PROTOCOLS[protocol]))
        for port, kind, flag in (
            (source_port, _PROTO_SOURCE_PORT, _BY_SOURCE_PORT),
            (destination_port, _PROTO_DESTINATION_PORT, _BY_DESTINATION_PORT),
        ):
            if port:
                self.flags |= flag
                ports += _attribute(kind, struct.pack(">H", port))
        self.data = _nest(_TUPLE_IP, addresses) + (_nest(_TUPLE_PROTO, ports) if ports else b"")


def forget(address: str) -> bool:
    """Drop every tracked connection that `address` began, and say whether that could be done.

    Takes some 0.4 ms, more with many connections. OSError when the kernel refuses. (Those that others began
    come by a published port: `forget_service`.) Linux before 6.9 or so can only do it by reading the whole table,
    at 10 ms and more for each container: there, it is left undone. Such a kernel answers EINVAL, since to it the
    message names one connection and leaves out most of it.
    """
    return _forget(address, began=_Tuple(source=address))


def forget_service(protocol: str, address: str, port: int) -> bool:
    """Drop what was translated, or went, to a port of a container. As `forget`."""
    return _forget(address, answers=_Tuple(source=address, protocol=protocol, source_port=port))


def forget_port(protocol: str, address: str, port: int) -> bool:
    """Drop what goes to a port of this host, at one address of it or (0.0.0.0, ::) at any. As `forget`."""
    if not ipaddress.ip_address(address).is_unspecified:
        return _forget(address, began=_Tuple(destination=address, protocol=protocol, destination_port=port))
    links = Links()
    try:
        version = ipaddress.ip_address(address).version
        local = {str(a.ip) for _, a in links.addresses() if a.version == version}
    finally:
        links.close()
    return all(
        [
            _forget(a, began=_Tuple(destination=a, protocol=protocol, destination_port=port))
            for a in sorted(local)
        ]
    )


def _forget(address: str, *, began: _Tuple | None = None, answers: _Tuple | None = None) -> bool:
    family = _FAMILIES[ipaddress.ip_address(address).version]
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    ) as channel:
        channel.bind((0, 0))
        channel.send(_message(family, began, answers))
        code = -struct.unpack_from("=i", channel.recv(1 << 16), 16)[0]
    if code not in (0, errno.ENOENT, errno.EINVAL):
        raise OSError(code, f"forget connections of {address}: {os.strerror(code)}")
    return code != errno.EINVAL


def _message(family: int, began: _Tuple | None, answers: _Tuple | None) -> bytes:
    body = struct.pack("=BBH", family, 0, 0)
    for kind, one in ((_TUPLE_ORIG, began), (_TUPLE_REPLY, answers)):
        if one is not None:
            body += _nest(kind, one.data)
    body += _nest(
        _FILTER,
        _attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", began.flags if began else 0))
        + _attribute(_FILTER_REPLY_FLAGS, struct.pack("=I", answers.flags if answers else 0)),
    )
    return struct.pack("=IHHII", 16 + len(body), _CT_DELETE, _REQUEST | _ACK, 1, 0) + body


def _nest(kind: int, data: bytes) -> bytes:
    return _attribute(kind | _NESTED, data)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
