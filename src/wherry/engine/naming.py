"""What containers are called: the name service's part of each start, connect and end, and the /etc files.

A container has a name server from the moment it is on a network with names (`NetworkConfig.has_names`) until it
ends. The shim keeps copies of its sockets, so that what is asked while there is no daemon waits for the next one.

The same answers hold for a container that joins another one's network: it has the other's namespace and files.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from wherry.engine import etc_files
from wherry.engine.etc_files import HostLine
from wherry.engine.links import link_environment, parse_link
from wherry.engine.records import Container
from wherry.engine.settings import EngineSettings
from wherry.errors import Internal, InvalidParameter, NotFound, WherryError
from wherry.model.containers import EndpointSettings
from wherry.network.dns import resolv_conf
from wherry.network.dns.namespace import TCP_NAME, UDP_NAME, NameSockets
from wherry.network.dns.resolver import View
from wherry.network.dns.service import NameService
from wherry.network.dns.zone import fold, member
from wherry.network.driver import Endpoint
from wherry.network.networks import Attachment, Networks
from wherry.shim.client import Shim, ShimError, ShimGone

_log = logging.getLogger(__name__)

DEFAULT_NETWORK = "bridge"


class Naming:
    """One per engine. `find` gives a container by its full ID; `paths` is where its files are."""

    def __init__(
        self, settings: EngineSettings, networks: Networks, paths: Callable[[str], Mapping[str, str]]
    ) -> None:
        self._settings = settings
        self._networks = networks
        self._paths = paths
        self._service = NameService()
        self.find: Callable[[str], Container | None] = lambda _: None
        self.all: Callable[[], Sequence[Container]] = lambda: ()

    def close(self) -> None:
        """Stop answering. What is asked from now on waits for the next daemon."""
        self._service.close()

    # The life of a container

    async def begin(self, container: Container, attachment: Attachment) -> Mapping[str, int]:
        """The container, whose endpoints are known, is found by its names and has its name server.

        The descriptors are for its shim to keep, and stay ours.
        """
        sockets, netns = attachment.names, attachment.sandbox
        try:
            if netns is None or not self._has_names(container):
                return {}
            if sockets is None:
                sockets = await self._service.open_sockets(netns)
            descriptors = sockets.descriptors()
            self._join(container)
            self._service.serve(container.id, sockets, netns, self._view(container))
            sockets = None
            return descriptors
        finally:
            if sockets is not None:
                sockets.close()

    def end(self, container: Container) -> None:
        """The container has ended, or its start failed. It may never have begun."""
        self._service.stop(container.id)
        for network_id in self._service.zone.networks_of(container.id):
            self._service.zone.leave(network_id, container.id)

    async def restore(self, running: Iterable[Container]) -> None:
        """These run since an earlier daemon. Nobody is answered before all are known: questions are waiting."""
        with_shims = [(container, container.shim) for container in running if container.shim is not None]
        for container, _ in with_shims:
            self._join(container)
        for container, shim in with_shims:
            try:
                await self._take_over(container, shim)
            except (WherryError, OSError) as exc:
                _log.error("container %s finds no names: %s", container.id, exc)

    async def _take_over(self, container: Container, shim: Shim) -> None:
        """Answer the questions of a container that runs, if it is on a network with names, or ever was."""
        if container.record.host.network_mode.startswith("container:"):
            return
        try:
            sockets = NameSockets.of(*await shim.descriptors(UDP_NAME, TCP_NAME))
        except ShimError:
            if not self._has_names(container):
                return
            sockets = None
        netns = await shim.descriptor("netns")
        try:
            if sockets is None:
                sockets = await self._open_and_keep(shim, netns)
            self._service.serve(container.id, sockets, netns, self._view(container))
        finally:
            os.close(netns)

    async def connected(self, container: Container, endpoint: Endpoint) -> None:
        """The running container has got another network; `endpoint` is among its endpoints already.

        It is on the network whatever fails here: that is logged.
        """
        try:
            for line in self._endpoint_lines(container, endpoint):
                _append(self._paths(container.id)["hosts"], line)
            if self._service.is_serving(container.id):
                self.renamed(container)
            elif self._has_names(container) and container.shim is not None:
                self._join(container)
                await self._take_over(container, container.shim)
                self._rewrite_resolv_conf(container)
        except (OSError, WherryError) as exc:
            _log.error("container %s finds no names on its new network: %s", container.id, exc)

    def disconnected(self, container: Container, endpoint: Endpoint) -> None:
        """The running container has lost a network; `endpoint` is no longer among its endpoints."""
        self._service.zone.leave(endpoint.network_id, container.id)
        if self._service.is_serving(container.id):
            self._service.update(container.id, self._view(container))
        lines = self._endpoint_lines(container, endpoint)
        self._change_hosts(container, lambda text: functools.reduce(etc_files.without_line, lines, text))

    def renamed(self, container: Container) -> None:
        """The container's names or networks have changed."""
        if self._service.is_serving(container.id):
            self._join(container)
            self._service.update(container.id, self._view(container))

    # Names

    def _join(self, container: Container) -> None:
        for name, endpoint in container.state.endpoints.items():
            network = self._networks.inspect(endpoint.network_id)
            if network.has_names:
                who = member(container.id, dns_names(container, name), (endpoint.address, endpoint.address6))
                self._service.zone.join(network.id, network.name, who)

    def _has_names(self, container: Container) -> bool:
        return any(
            self._networks.inspect(endpoint.network_id).has_names
            for endpoint in container.state.endpoints.values()
        )

    def _view(self, container: Container) -> View:
        record, endpoints = container.record, container.state.endpoints
        networks = {name: self._networks.inspect(endpoint.network_id) for name, endpoint in endpoints.items()}
        order = sorted(networks, key=lambda name: (-endpoints[name].priority, name))  # as Docker's
        links = {
            networks[name].id: dict(_link_names(record.endpoints[name].links or ()))
            for name in order
            if name in record.endpoints
        }
        options = record.host.dns_options or self._settings.dns_options or resolv_conf.read().options
        return View(
            networks=tuple(networks[name].id for name in order if networks[name].has_names),
            links={key: names for key, names in links.items() if names},
            servers=tuple(record.host.dns or self._settings.dns),
            is_external=any(
                not networks[name].internal and (endpoint.gateway or endpoint.gateway6)
                for name, endpoint in endpoints.items()
            ),
            keeps_single_labels=resolv_conf.ndots(options) is not None,
            has_ipv6=any(endpoint.address6 for endpoint in endpoints.values()),
        )

    async def _open_and_keep(self, shim: Shim, netns: int) -> NameSockets:
        sockets = await self._service.open_sockets(netns)
        try:
            await shim.keep(sockets.descriptors())
        except (ShimError, ShimGone) as exc:
            _log.warning("names are not found in container %s while there is no daemon: %s", shim.id, exc)
        return sockets

    # /etc

    def write_files(self, container: Container) -> None:
        """Write the container's /etc/hosts, hostname and resolv.conf for this start."""
        record, paths = container.record, self._paths(container.id)
        if record.host.network_mode.startswith("container:"):
            return  # it has the other's
        if record.host.network_mode == "host" and not record.host.extra_hosts:
            hosts = resolv_conf.read_file("/etc/hosts")
        else:
            hosts = etc_files.hosts_text(self._host_lines(container))
        etc_files.write_in_place(paths["hosts"], hosts)
        etc_files.write_in_place(paths["hostname"], record.config.hostname + "\n")
        self._write_resolv_conf(container)

    def _host_lines(self, container: Container) -> list[HostLine]:
        extra = container.record.host.extra_hosts or ()
        wants_gateway = any(entry.endswith(etc_files.HOST_GATEWAY) for entry in extra)
        lines = etc_files.extra_hosts(extra, self._gateways() if wants_gateway else ())
        for alias, other in self._linked(container).items():
            endpoint = other.state.endpoints.get(DEFAULT_NETWORK)
            names = f"{alias} {other.record.config.hostname}"
            if alias != other.name:
                names += f" {other.name}"
            for address in (endpoint.address, endpoint.address6) if endpoint is not None else ():
                lines += [HostLine(address=address, names=names)] if address else []
        for endpoint in container.state.endpoints.values():
            lines += self._endpoint_lines(container, endpoint)
        return lines

    def _endpoint_lines(self, container: Container, endpoint: Endpoint) -> list[HostLine]:
        config = container.record.config
        names = etc_files.own_names(config.hostname, config.domainname)
        addresses = (endpoint.address, endpoint.address6)
        return [HostLine(address=address, names=names) for address in addresses if address]

    def _gateways(self) -> Sequence[str]:
        """What `host-gateway` means: the host's addresses on the default network, unless set."""
        if self._settings.host_gateway_ips:
            return self._settings.host_gateway_ips
        try:
            pools = self._networks.inspect(DEFAULT_NETWORK).pools
        except NotFound:
            pools = ()
        gateways = [pool.gateway for pool in pools if pool.gateway]
        if not gateways:
            raise InvalidParameter("unable to derive the IP value for host-gateway")  # Docker's text
        return gateways

    def _write_resolv_conf(self, container: Container) -> None:
        host, settings = container.record.host, self._settings
        path = self._paths(container.id)["resolv_conf"]
        servers, search = host.dns or settings.dns, host.dns_search or settings.dns_search
        options = host.dns_options or settings.dns_options
        is_on_host = host.network_mode == "host"
        if is_on_host and not (servers or search or options):
            text = resolv_conf.read_file(resolv_conf.PATH)
        else:
            text = etc_files.resolv_conf_text(
                resolv_conf.read(),
                servers=servers,
                search=search,
                options=options,
                has_names=self._has_names(container),
                is_on_host=is_on_host,
                has_ipv6=any(endpoint.address6 for endpoint in container.state.endpoints.values()),
            )
        etc_files.write_in_place(path, text)
        etc_files.write_in_place(_digest_path(path), _digest(text))

    def _rewrite_resolv_conf(self, container: Container) -> None:
        """As above for a container that runs, unless it has changed the file itself."""
        path = self._paths(container.id)["resolv_conf"]
        text = etc_files.read_file(path)
        if text is not None and _digest(text) == etc_files.read_file(_digest_path(path)):
            self._write_resolv_conf(container)

    # Legacy links, on the default network

    def link_environment(self, container: Container) -> list[str]:
        """The variables by which the container learns of those it is linked to, which must run. Docker's texts."""
        told: list[str] = []
        for alias, other in self._linked(container).items():
            name = f"/{container.name}/{alias}"
            if not other.state.is_running:
                raise Internal(f"Cannot link to a non running container: /{other.name} AS {name}")
            endpoint = other.state.endpoints.get(DEFAULT_NETWORK)
            if endpoint is None:
                raise Internal(f"Cannot link to /{other.name}, as it does not belong to the default network")
            ports = other.record.config.exposed_ports
            told += link_environment(
                name,
                endpoint.address,
                ports if isinstance(ports, dict) else (),
                other.record.config.env or (),
            )
        return told

    def tell_linked(self, container: Container) -> None:
        """The container has started: those linked to it learn its address, which may be another than before."""
        endpoint = container.state.endpoints.get(DEFAULT_NETWORK)
        if endpoint is None:
            return
        for other in self.all():
            for alias, target in other.record.links.items():
                if target == container.id and other.state.is_running:
                    change = functools.partial(etc_files.with_address, name=alias, address=endpoint.address)
                    self._change_hosts(other, change)

    def unlinked(self, container: Container, alias: str) -> None:
        """The container is no longer linked so: its /etc/hosts does not have the name any more."""
        if container.state.is_running:
            self._change_hosts(container, lambda text: etc_files.without_name(text, alias))

    def _change_hosts(self, container: Container, change: Callable[[str], str]) -> None:
        """Change a running container's /etc/hosts, unless it has made something of it that is none."""
        path = self._paths(container.id)["hosts"]
        text = etc_files.read_file(path)
        if text is None:
            return
        changed = change(text)
        if changed != text:
            try:
                etc_files.write_in_place(path, changed)
            except OSError as exc:
                _log.error("cannot write /etc/hosts of container %s: %s", container.id, exc)

    def _linked(self, container: Container) -> dict[str, Container]:
        if DEFAULT_NETWORK not in container.record.endpoints:
            return {}
        links = container.record.links.items()
        return {alias: found for alias, other in links if (found := self.find(other)) is not None}


def dns_names(container: Container, network: str) -> list[str]:
    """By what names the container is found on a network of its own: `DNSNames` of Docker's inspect."""
    record, asked = container.record, container.record.endpoints.get(network, EndpointSettings())
    names = [record.name, *(asked.aliases or ()), record.id[:12], record.config.hostname]
    return list(dict.fromkeys(name for name in names if name))


def _link_names(links: Sequence[str]) -> list[tuple[bytes, bytes]]:
    """`--link` on a network with names: what this container calls others."""
    return [(fold(alias), fold(name)) for name, alias in map(parse_link, links)]


def _append(path: str, line: HostLine) -> None:
    """Add a line to a file that the container may have made anything of."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, b"\n" * is_cut + str(line).encode())
    finally:
        os.close(descriptor)


def _digest_path(path: str) -> str:
    return f"{path}.hash"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
