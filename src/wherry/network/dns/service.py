"""The name servers of all containers, and the zone they share. One per engine; nothing is kept on disk.

Asking other resolvers is done from within the container's network namespace, as Docker does, so that its routes and
rules hold for it; only what the host alone can reach (its loopback servers) is asked from the host.
"""

from __future__ import annotations

import os
import resource
import socket

from wherry.network.dns import messages, resolv_conf, upstream
from wherry.network.dns.messages import Query
from wherry.network.dns.namespace import NameSockets, Visitor, open_here
from wherry.network.dns.resolv_conf import HostFile, Server
from wherry.network.dns.resolver import Resolver, View
from wherry.network.dns.zone import Zone

_DESCRIPTORS_PER_QUESTION = 16
"""A question may take six sockets, and the daemon has other uses for its descriptors."""


class NameService:
    """`serve` a container from its start to its end; who is called what is in `zone`."""

    def __init__(self) -> None:
        self.zone = Zone()
        self._host_file = HostFile()
        self._visitor = Visitor()
        self._resolvers: dict[str, tuple[Resolver, int]] = {}  # with the network namespace
        self._forwarded = 0
        self._max_forwarded = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _DESCRIPTORS_PER_QUESTION

    async def open_sockets(self, netns: int) -> NameSockets:
        """Sockets and rules in a namespace that was made without."""
        return await self._visitor.run(netns, open_here)

    def serve(self, container_id: str, sockets: NameSockets, netns: int, view: View) -> None:
        """Answer what arrives at `sockets`, which are ours from here on; of `netns` a copy is kept."""
        self.stop(container_id)
        netns = os.dup(netns)

        async def forward(query: Query, data: bytes, is_stream: bool) -> bytes | None:
            return await self._ask(netns, resolver.view, query, data, is_stream=is_stream)

        resolver = Resolver(self.zone, view, sockets, forward)
        self._resolvers[container_id] = resolver, netns
        resolver.start()

    def is_serving(self, container_id: str) -> bool:
        return container_id in self._resolvers

    def update(self, container_id: str, view: View) -> None:
        """The container's networks have changed. Nothing happens when it has no name server."""
        found = self._resolvers.get(container_id)
        if found is not None:
            found[0].view = view

    def stop(self, container_id: str) -> None:
        """The container has ended. It may have had no name server."""
        found = self._resolvers.pop(container_id, None)
        if found is not None:
            found[0].close()
            self._visitor.close_after(found[1])

    def close(self) -> None:
        for container_id in list(self._resolvers):
            self.stop(container_id)
        self._visitor.close()

    async def _ask(
        self, netns: int, view: View, query: Query, data: bytes, *, is_stream: bool
    ) -> bytes | None:
        if self._forwarded >= self._max_forwarded:
            return messages.reply(query, code=messages.REFUSED)

        async def open_socket(
            server: Server, family: socket.AddressFamily, kind: socket.SocketKind
        ) -> socket.socket:
            if server.on_host:
                return socket.socket(family, kind)
            return await self._visitor.run(netns, lambda: socket.socket(family, kind))

        servers = resolv_conf.servers_for(self._host_file.current(), view.servers, has_ipv6=view.has_ipv6)
        self._forwarded += 1
        try:
            return await upstream.ask(data, query.question, servers, open_socket, is_stream=is_stream)
        finally:
            self._forwarded -= 1
