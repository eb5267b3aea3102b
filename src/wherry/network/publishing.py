"""Makes ports of the host lead to containers, and takes them back: sockets that reserve, rules that lead.

    reserve  ─► sockets, bound in the host's namespace        a conflict is found here, before the container starts
    (the shim keeps the sockets, and relays what reaches them)
    open     ─► elements in the firewall's maps               from here on packets go straight to the container
    close    ─► elements gone, exchanges forgotten            the shim closes the sockets

The sockets are the truth: they live in the container's shim, by names that say all (`Publication.name`). After the
death of a daemon the next one `adopt`s what the shims hold, and `reconcile` makes the rules follow.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Iterable, Sequence

import msgspec

from wherry.errors import Internal, Unsupported
from wherry.network import connections
from wherry.network.elements import Lead
from wherry.network.nat import Firewall
from wherry.network.ports import (
    Ledger,
    PortSpec,
    Publication,
    addresses_for,
    already_allocated,
    cannot_bind,
)

_log = logging.getLogger(__name__)

_SCTP = 132
_BACKLOG = 1024
_KINDS = {"tcp": (socket.SOCK_STREAM, 0), "udp": (socket.SOCK_DGRAM, 0), "sctp": (socket.SOCK_STREAM, _SCTP)}
_NO_SCTP = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A container's addresses, as published ports see them; empty where it has none of that family."""

    address: str = ""
    address6: str = ""

    def target(self, publication: Publication) -> tuple[str, int] | None:
        """Where the shim relays what reaches the port's socket."""
        ways = (self.address6, self.address) if publication.is_ipv6 else (self.address, self.address6)
        address = ways[0] or ways[1]
        return (address, publication.container_port) if address else None

    def lead(self, publication: Publication) -> Lead | None:
        """The firewall's part, where it can play one."""
        address = self.address6 if publication.is_ipv6 else self.address
        if not address or (publication.is_ipv6 and publication.is_loopback):
            return None
        return Lead(
            protocol=publication.protocol,
            address="" if publication.is_wildcard else publication.host_ip,
            port=publication.host_port,
            to_address=address,
            to_port=publication.container_port,
        )


class WayIn(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container's ports are published now."""

    endpoint_id: str
    place: Place
    default_address: str = ""  # where ports are bound that name no address; "" for everywhere


class Reserved:
    """A publication with the socket that reserves it. Close it when the shim has its copy."""

    __slots__ = ("publication", "sock")

    def __init__(self, publication: Publication, sock: socket.socket) -> None:
        self.publication = publication
        self.sock = sock


class Publisher:
    """One per engine. `owner` is a container's ID."""

    def __init__(self, firewall: Firewall, *, ledger: Ledger | None = None) -> None:
        self._firewall = firewall
        self._ledger = ledger or Ledger()
        self._published: dict[str, dict[Publication, Place]] = {}
        self._has_ipv6 = _has_ipv6()

    def of(self, owner: str) -> tuple[Publication, ...]:
        """What is published for a container, by port."""
        return tuple(sorted(self._published.get(owner, ())))

    def all(self) -> list[tuple[str, Publication]]:
        return [
            (owner, publication) for owner, them in self._published.items() for publication in sorted(them)
        ]

    def reserve(
        self, owner: str, specs: Sequence[PortSpec], place: Place, *, default: str = ""
    ) -> list[Reserved]:
        """Bind the host's side of `specs`, all of it or nothing. Internal, with Docker's words, for a taken port.

        Follow with `open`, or `close` when that is not to be.
        """
        made: list[Reserved] = []
        try:
            for spec in specs:
                made += self._reserve(owner, spec, place, default)
        except BaseException:
            self.cancel(owner, made)
            raise
        return made

    def cancel(self, owner: str, reserved: Iterable[Reserved]) -> None:
        """Give back what was reserved and never opened."""
        for one in reserved:
            one.sock.close()
            self._ledger.free(one.publication)
            self._published.get(owner, {}).pop(one.publication, None)
        if not self._published.get(owner, True):
            del self._published[owner]

    async def open(self, owner: str, place: Place) -> None:
        """Lead everything that is reserved for `owner` to `place`. Called again, it leads it elsewhere."""
        them = self._published.get(owner, {})
        before = [lead for publication, old in them.items() if (lead := old.lead(publication))]
        leads = [lead for publication in them if (lead := place.lead(publication))]
        await self._firewall.unlead([lead for lead in before if lead not in leads])
        for publication in them:
            them[publication] = place
        await self._firewall.lead(leads)
        datagrams = [p for p in them if p.protocol == "udp"]
        if datagrams:
            await asyncio.to_thread(_forget_datagrams, datagrams)

    async def close(self, owner: str, publications: Iterable[Publication] | None = None) -> None:
        """Take ports back, all of the container's by default. The shim, or its end, closes the sockets."""
        them = self._published.get(owner, {})
        ended = {p: them[p] for p in (list(them) if publications is None else publications) if p in them}
        if not ended:
            return
        try:
            await self._firewall.unlead([lead for p, place in ended.items() if (lead := place.lead(p))])
        except Internal as exc:
            _log.error("the rules of published ports of container %s stay for now: %s", owner, exc)
        await asyncio.to_thread(_forget_exchanges, ended)
        for publication in ended:
            del them[publication]
            self._ledger.free(publication)
        if not them:
            self._published.pop(owner, None)

    def adopt(self, owner: str, names: Iterable[str], place: Place) -> None:
        """Take note of what a shim keeps for a container that an earlier daemon started."""
        for name in names:
            publication = Publication.from_name(name)
            if publication is not None:
                self._ledger.take(publication, owner)
                self._published.setdefault(owner, {})[publication] = place

    async def reconcile(self) -> None:
        """At a start, when everything is adopted: the rules are for that, and nothing else."""
        await self._firewall.lead_only(
            [
                lead
                for them in self._published.values()
                for publication, place in them.items()
                if (lead := place.lead(publication))
            ]
        )

    def _reserve(self, owner: str, spec: PortSpec, place: Place, default: str) -> list[Reserved]:
        addresses = addresses_for(spec, default, has_ipv6=self._has_ipv6)
        if spec.protocol == "sctp":  # which is led by rules or not at all
            addresses = tuple(a for a in addresses if (place.address6 if ":" in a else place.address))
        failure: Internal | None = None
        for port in self._ledger.candidates(spec, addresses):
            try:
                made = self._bind(owner, spec, addresses, port)
            except Internal as exc:
                failure = exc
                if spec.first:
                    continue
                if not isinstance(exc.__cause__, OSError) or exc.__cause__.errno != errno.EADDRINUSE:
                    raise
            else:
                return made
        if failure is not None:
            raise failure
        if spec.first:
            taken = next((a for a in addresses if self._ledger.holder(spec.protocol, a, spec.first)), "")
            raise Internal(already_allocated(taken or "0.0.0.0", spec.first))
        raise Internal("all ports are allocated")  # Docker's text

    def _bind(self, owner: str, spec: PortSpec, addresses: Sequence[str], port: int) -> list[Reserved]:
        made: list[Reserved] = []
        try:
            for address in addresses:
                publication = Publication(
                    protocol=spec.protocol,
                    host_ip=address,
                    host_port=port,
                    container_port=spec.container_port,
                )
                made.append(Reserved(publication, _bound(spec.protocol, address, port)))
        except OSError as exc:
            for one in made:
                one.sock.close()
            address = addresses[len(made)]
            if spec.protocol == "sctp" and exc.errno in _NO_SCTP:
                raise Unsupported(
                    cannot_bind(
                        address,
                        port,
                        "sctp",
                        "this host's kernel has no SCTP: load its module sctp, or use tcp or udp",
                    )
                ) from exc
            reason = os.strerror(exc.errno).lower() if exc.errno else str(exc)
            raise Internal(cannot_bind(address, port, spec.protocol, reason)) from exc
        for one in made:
            self._ledger.take(one.publication, owner)
            self._published.setdefault(owner, {})[one.publication] = Place()
        return made


def _bound(protocol: str, address: str, port: int) -> socket.socket:
    """A socket that nobody else can bind beside. TCP's listens: else others with SO_REUSEADDR could, too."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind, number = _KINDS[protocol]
    sock = socket.socket(family, kind, number)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ended connections are not in the way
        sock.bind((address, port))
        if protocol == "tcp":
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _has_ipv6() -> bool:
    try:
        _bound("tcp", "::1", 0).close()
    except OSError:
        return False
    return True


def _forget_datagrams(publications: Sequence[Publication]) -> None:
    """What went to the port before goes to its new owner. A peer that never pauses would stay with the old one."""
    for publication in publications:
        try:
            connections.forget_port(publication.protocol, publication.host_ip, publication.host_port)
        except OSError as exc:
            _log.warning("old exchanges with port %s go on: %s", publication.host_port, exc)


def _forget_exchanges(ended: dict[Publication, Place]) -> None:
    for publication, place in ended.items():
        address = place.address6 if publication.is_ipv6 else place.address
        if not address:
            continue
        try:
            connections.forget_service(publication.protocol, address, publication.container_port)
        except OSError as exc:
            _log.warning("exchanges with %s port %s go on: %s", address, publication.container_port, exc)
