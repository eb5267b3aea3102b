"""The few rtnetlink messages that container networking needs, as methods of a socket.

A netlink socket belongs to the network namespace its maker was in, for ever: a `Links` opened inside a
sandbox configures that sandbox from any thread, without entering it again.

The kernel carries a request out inside `send`, and its answer lies in the socket's queue when `send`
returns. So the calls are synchronous, cost some tens of µs, and are fine in the event loop; `delete` alone
sleeps (30 ms and more, waiting for the kernel's readers) and belongs in a thread.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator

import msgspec

IFF_UP = 1

# message types and flags: linux/netlink.h, linux/rtnetlink.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP, _EXCL, _CREATE, _REPLACE = 0x1, 0x4, 0x300, 0x200, 0x400, 0x100
_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26

# attributes: linux/if_link.h, if_addr.h, rtnetlink.h, veth.h
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_PROTINFO, _IFLA_OPERSTATE, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 12, 16, 20, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER, _IFLA_BRPORT_ISOLATED = 1, 2, 1, 33
_IFLA_MACVLAN_MODE, _IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS, _IFLA_VLAN_ID = 1, 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_NESTED = 0x8000
_OPERATIONAL = b"\6"  # IF_OPER_UP
_TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _SCOPE_LINK, _UNICAST = 254, 3, 0, 253, 1

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}

IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change mask
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst len, src len, tos, table, protocol, scope, type, flags
_ATTRIBUTE = struct.Struct("=HH")


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One network interface."""

    index: int
    name: str
    kind: str = ""  # bridge, veth, …; empty for hardware
    master: int = 0
    mtu: int = 0
    mac: str = ""
    alias: str = ""
    is_up: bool = False  # switched on
    is_ready: bool = False  # and passes packets


class Links:
    """Interfaces, addresses and routes of the network namespace this was opened in.

    Kernel refusals are OSError.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            # An acknowledgement goes into our queue or is lost: never let a small default bound it.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def add_bridge(self, name: str, *, mac: str = "", mtu: int = 0) -> None:
        """Without `mac` and `mtu` the kernel chooses."""
        body = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + _text(_IFLA_IFNAME, name)
            + _attribute(_IFLA_LINKINFO | _NESTED, _text(_IFLA_INFO_KIND, "bridge"))
        )
        if mac:
            body += _attribute(_IFLA_ADDRESS, _mac_bytes(mac))
        if mtu:
            body += _number(_IFLA_MTU, mtu)
        self._request(f"add bridge {name}", _NEWLINK, _CREATE | _EXCL, body)

    def add_veth(self, name: str, *, mtu: int, peer: str, peer_netns: int) -> None:
        """Make a veth pair.

        `name` here, and `peer` in the network namespace behind the descriptor `peer_netns`.
        """
        there = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + _text(_IFLA_IFNAME, peer)
            + _number(_IFLA_MTU, mtu)
            + _number(_IFLA_NET_NS_FD, peer_netns)
        )
        pair = _attribute(_IFLA_INFO_DATA | _NESTED, _attribute(_VETH_INFO_PEER | _NESTED, there))
        body = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + _text(_IFLA_IFNAME, name)
            + _number(_IFLA_MTU, mtu)
            + _attribute(_IFLA_LINKINFO | _NESTED, _text(_IFLA_INFO_KIND, "veth") + pair)
        )
        self._request(f"add veth {name}", _NEWLINK, _CREATE | _EXCL, body)

    def change(
        self,
        index: int,
        *,
        up: bool | None = None,
        name: str | None = None,
        master: int | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        alias: str | None = None,
    ) -> None:
        """Set what is given, in one message. `master=0` takes the interface out of its bridge."""
        body = _IFINFO.pack(0, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)
        if name is not None:
            body += _text(_IFLA_IFNAME, name)
        if master is not None:
            body += _number(_IFLA_MASTER, master)
        if mac is not None:
            body += _attribute(_IFLA_ADDRESS, _mac_bytes(mac))
        if mtu is not None:
            body += _number(_IFLA_MTU, mtu)
        if alias is not None:
            body += _attribute(_IFLA_IFALIAS, alias.encode())
        self._request(f"change interface {name or index}", _NEWLINK, 0, body)

    def isolate(self, index: int) -> None:
        """Forbid a bridge port to exchange frames with the bridge's other isolated ports."""
        port = _attribute(_IFLA_BRPORT_ISOLATED, b"\1")
        body = _IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0) + _attribute(_IFLA_PROTINFO | _NESTED, port)
        self._request(f"isolate port {index}", _SETLINK, 0, body)

    def delete(self, index: int) -> None:
        """Remove an interface. Sleeps: call it in a thread. ENODEV when it is gone already."""
        self._request(f"delete interface {index}", _DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0))

    def add_dummy(self, name: str) -> None:
        """An interface that leads nowhere, for networks without a parent of their own."""
        body = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + _text(_IFLA_IFNAME, name)
            + _attribute(_IFLA_LINKINFO | _NESTED, _text(_IFLA_INFO_KIND, "dummy"))
        )
        self._request(f"add dummy interface {name}", _NEWLINK, _CREATE | _EXCL, body)

    def add_vlan(self, name: str, *, parent: int, vlan: int) -> None:
        """The part of `parent`'s traffic that is tagged with `vlan`, as an interface."""
        data = _attribute(_IFLA_VLAN_ID, struct.pack("=H", vlan))
        self._add_on(name, parent, "vlan", data)

    def add_macvlan(self, name: str, *, parent: int, mode: str, netns: int, mtu: int) -> None:
        """An interface with a MAC address of its own on `parent`, in the namespace behind `netns`."""
        self._add_on(name, parent, "macvlan", _number(_IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]), netns, mtu)

    def add_ipvlan(self, name: str, *, parent: int, mode: str, flag: str, netns: int, mtu: int) -> None:
        """An interface that shares `parent`'s MAC address, in the namespace behind `netns`."""
        data = _attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode]))
        data += _attribute(_IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag]))
        self._add_on(name, parent, "ipvlan", data, netns, mtu)

    def _add_on(
        self, name: str, parent: int, kind: str, data: bytes, netns: int | None = None, mtu: int = 0
    ) -> None:
        info = _text(_IFLA_INFO_KIND, kind) + _attribute(_IFLA_INFO_DATA | _NESTED, data)
        body = (
            _IFINFO.pack(0, 0, 0, 0, 0)
            + _text(_IFLA_IFNAME, name)
            + _number(_IFLA_LINK, parent)
            + _attribute(_IFLA_LINKINFO | _NESTED, info)
        )
        if mtu:
            body += _number(_IFLA_MTU, mtu)
        if netns is not None:
            body += _number(_IFLA_NET_NS_FD, netns)
        self._request(f"add {kind} {name}", _NEWLINK, _CREATE | _EXCL, body)

    def add_address(self, index: int, address: str, prefix_length: int) -> None:
        """IPv4 or IPv6; the latter is good at once, whoever else may have it (no DAD)."""
        interface = ipaddress.ip_interface(f"{address}/{prefix_length}")
        flags = 0 if interface.version == 4 else _IFA_F_NODAD
        packed = interface.ip.packed
        body = (
            _IFADDR.pack(_family(interface), prefix_length, flags, _SCOPE_UNIVERSE, index)
            + _attribute(_IFA_LOCAL, packed)
            + _attribute(_IFA_ADDRESS, packed)
        )
        if interface.version == 4:
            body += _attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        self._request(f"add address {address}/{prefix_length}", _NEWADDR, _CREATE | _REPLACE, body)

    def add_link_local(self, index: int, addresses: Iterable[str]) -> None:
        """Further addresses that are good on this link alone."""
        for address in addresses:
            self.add_address(index, address, 64 if ":" in address else 16)

    def remove_address(self, index: int, address: str, prefix_length: int) -> None:
        ip = ipaddress.ip_address(address)
        body = _IFADDR.pack(_family(ip), prefix_length, 0, 0, index) + _attribute(_IFA_LOCAL, ip.packed)
        self._request(f"remove address {address}/{prefix_length}", _DELADDR, 0, body)

    def add_default_route(self, index: int, gateway: str) -> None:
        """Replaces the one of the same family. An empty `gateway`: see `add_device_route`."""
        ip = ipaddress.ip_address(gateway)
        body = (
            _RTMSG.pack(_family(ip), 0, 0, 0, _TABLE_MAIN, _PROTO_BOOT, _SCOPE_UNIVERSE, _UNICAST, 0)
            + _attribute(_RTA_GATEWAY, ip.packed)
            + _number(_RTA_OIF, index)
        )
        self._request(f"add default route via {gateway}", _NEWROUTE, _CREATE | _REPLACE, body)

    def add_device_route(self, index: int, *, ipv6: bool) -> None:
        """A default route out of an interface behind which everybody is: ipvlan's l3 modes."""
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        scope = _SCOPE_UNIVERSE if ipv6 else _SCOPE_LINK
        body = _RTMSG.pack(family, 0, 0, 0, _TABLE_MAIN, _PROTO_BOOT, scope, _UNICAST, 0) + _number(
            _RTA_OIF, index
        )
        self._request(f"add default route over interface {index}", _NEWROUTE, _CREATE | _REPLACE, body)

    def remove_default_routes(self, *, ipv6: bool) -> None:
        """Every default route of the family; there may be none."""
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        body = _RTMSG.pack(family, 0, 0, 0, _TABLE_MAIN, 0, 255, 0, 0)
        for _ in range(64):
            try:
                self._request("remove default route", _DELROUTE, 0, body)
            except OSError as exc:
                if exc.errno in (errno.ESRCH, errno.ENOENT):  # ENOENT: IPv6 without any route
                    return
                raise

    def get(self, index: int) -> Link:
        """The interface `index`; ENODEV when there is none."""
        return self._get_link(f"get interface {index}", _IFINFO.pack(0, 0, index, 0, 0))

    def index_of(self, name: str) -> int:
        """The index of `name`; ENODEV when there is no such interface."""
        return self._get_link(
            f"get interface {name}", _IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
        ).index

    def find(self, name: str) -> Link | None:
        try:
            return self._get_link(
                f"get interface {name}", _IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
            )
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise

    def links(self, *, alias: str = "") -> list[Link]:
        """Every interface; or, quicker where there are hundreds, those whose alias begins so."""
        bodies = self._dump("list interfaces", _GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))
        mark = alias.encode()
        found = [_parse_link(body) for body in bodies if mark in body]
        return [link for link in found if link.alias.startswith(alias)]

    def addresses(self) -> list[tuple[int, IPInterface]]:
        """Every address with the index of its interface, IPv4 first; link-local IPv6 left out."""
        found: list[tuple[int, IPInterface]] = []
        for wanted in (socket.AF_INET, socket.AF_INET6):
            for body in self._dump("list addresses", _GETADDR, _IFADDR.pack(wanted, 0, 0, 0, 0)):
                family, prefix_length, _, _, index = _IFADDR.unpack_from(body)
                attributes = dict(_attributes(body, _IFADDR.size))
                packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
                if family != wanted or packed is None:
                    continue
                address = ipaddress.ip_interface((packed, prefix_length))
                if not (family == socket.AF_INET6 and address.is_link_local):
                    found.append((index, address))
        return found

    def routes(self) -> list[tuple[int, IPNetwork]]:
        """Destinations of unicast routes, default and link-local routes left out, with their interfaces' indexes."""
        found: list[tuple[int, IPNetwork]] = []
        for wanted in (socket.AF_INET, socket.AF_INET6):
            for body in self._dump("list routes", _GETROUTE, _RTMSG.pack(wanted, 0, 0, 0, 0, 0, 0, 0, 0)):
                fields = _RTMSG.unpack_from(body)
                attributes = dict(_attributes(body, _RTMSG.size))
                destination = attributes.get(_RTA_DST)
                if fields[0] != wanted or fields[7] != _UNICAST or destination is None:
                    continue
                network = ipaddress.ip_network((destination, fields[1]), strict=False)
                if not (wanted == socket.AF_INET6 and (network.is_link_local or network.is_multicast)):
                    index = struct.unpack("=I", attributes.get(_RTA_OIF, b"\0\0\0\0"))[0]
                    found.append((index, network))
        return found

    def _get_link(self, what: str, body: bytes) -> Link:
        self._send(_GETLINK, 0, body)
        return _parse_link(next(iter(self._answers(what))))

    def _request(self, what: str, kind: int, flags: int, body: bytes) -> None:
        self._send(kind, flags | _ACK, body)
        for _ in self._answers(what):
            pass

    def _dump(self, what: str, kind: int, body: bytes) -> list[bytes]:
        self._send(kind, _DUMP, body)
        return list(self._answers(what, is_dump=True))

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        length = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(length, kind, flags | _REQUEST, self._sequence, 0) + body)

    def _answers(self, what: str, *, is_dump: bool = False) -> Iterator[bytes]:
        """Bodies that answer the last request, up to its acknowledgement, or the end of the dump."""
        while True:
            data = self._socket.recv(1 << 18)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, _flags, sequence, _ = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                at += (length + 3) & ~3
                if sequence != self._sequence:
                    continue  # the rest of an answer whose reader gave up
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    code = -struct.unpack_from("=i", body)[0] if body else 0
                    if code:
                        raise OSError(code, f"{what}: {os.strerror(code)}")
                    return
                yield body
                if not is_dump:
                    return


def _family(ip: IPInterface | ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return socket.AF_INET if ip.version == 4 else socket.AF_INET6


def _parse_link(body: bytes) -> Link:
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    attributes = dict(_attributes(body, _IFINFO.size))
    info = dict(_attributes(attributes.get(_IFLA_LINKINFO, b""), 0))
    return Link(
        index=index,
        name=_string(attributes.get(_IFLA_IFNAME, b"")),
        kind=_string(info.get(_IFLA_INFO_KIND, b"")),
        master=int.from_bytes(attributes.get(_IFLA_MASTER, b""), sys.byteorder),
        mtu=int.from_bytes(attributes.get(_IFLA_MTU, b""), sys.byteorder),
        mac=attributes.get(_IFLA_ADDRESS, b"").hex(":"),
        alias=_string(attributes.get(_IFLA_IFALIAS, b"")),
        is_up=bool(flags & IFF_UP),
        is_ready=attributes.get(_IFLA_OPERSTATE) == _OPERATIONAL,
    )


def _attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & ~_NESTED, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def _attribute(kind: int, data: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + bytes(-length % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
