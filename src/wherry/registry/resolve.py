"""Which servers to ask for a repository: mirrors, the registry itself, and how far each is trusted.

The rules are Docker's. Images of docker.io come from `registry-mirrors` first and then from the Hub; every
other domain is asked directly. A registry is spoken to over verified TLS, unless it is *insecure*: named in
`insecure-registries` by host or by network, or on a loopback address. Then TLS is tried without verification
and after it plain HTTP.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from wherry.errors import InvalidParameter

HUB_DOMAIN = "docker.io"
HUB_HOST = "registry-1.docker.io"
LOOKUP_TIMEOUT_S = 5

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Endpoint(msgspec.Struct, frozen=True):
    """One server to ask. `url` has no path beyond the server's own prefix and no final slash."""

    url: str
    is_verified: bool = True
    is_mirror: bool = False
    """A mirror gets no credentials: they are the registry's, not its."""


class Endpoints:
    """The daemon's settings of mirrors and insecure registries. InvalidParameter for a malformed one."""

    def __init__(self, *, mirrors: Sequence[str] = (), insecure: Sequence[str] = ()) -> None:
        self.mirrors = [parse_mirror(text) for text in mirrors]
        self.insecure_networks: list[Network] = [
            ipaddress.ip_network("127.0.0.0/8"),
            ipaddress.ip_network("::1/128"),
        ]
        self.insecure_hosts: set[str] = set()
        for text in insecure:
            entry = parse_insecure(text)
            if isinstance(entry, str):
                self.insecure_hosts.add(entry)
            else:
                self.insecure_networks.append(entry)

    async def for_domain(self, domain: str) -> list[Endpoint]:
        """The servers to ask for a repository of `domain`, best first."""
        if domain == HUB_DOMAIN:
            mirrors = [
                Endpoint(url, is_verified=not await self.is_insecure(urlsplit(url).netloc), is_mirror=True)
                for url in self.mirrors
            ]
            return [*mirrors, Endpoint(f"https://{HUB_HOST}")]
        if await self.is_insecure(domain):
            return [
                Endpoint(f"https://{domain}", is_verified=False),
                Endpoint(f"http://{domain}", is_verified=False),
            ]
        return [Endpoint(f"https://{domain}")]

    async def is_insecure(self, domain: str) -> bool:
        """True when `domain` (host[:port]) was declared insecure, or resolves into an insecure network."""
        host = split_host(domain)[0]
        if domain.lower() in self.insecure_hosts or host in self.insecure_hosts:
            return True
        return any(
            address in network
            for address in await _addresses(host)
            for network in self.insecure_networks
            if network.version == address.version
        )


def parse_mirror(text: str) -> str:
    """A mirror's URL without its final slash."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise InvalidParameter(f'invalid mirror: "{text}" is not a valid URI') from None
    if parts.scheme not in ("http", "https"):
        raise InvalidParameter(f'invalid mirror: unsupported scheme "{parts.scheme}" in "{text}"')
    if not parts.hostname:
        raise InvalidParameter(f'invalid mirror: "{text}" is not a valid URI')
    if parts.query or parts.fragment:
        raise InvalidParameter(f'invalid mirror: query or fragment at end of the URI "{text}"')
    if parts.username is not None:
        raise InvalidParameter(f'invalid mirror: username/password not allowed in URI "{parts.hostname}"')
    return text.rstrip("/")


def parse_insecure(text: str) -> str | Network:
    """One entry of `insecure-registries`: a network in CIDR form, or host[:port] in lower case."""
    bare = text.removeprefix("http://").removeprefix("https://").rstrip("/")
    if "://" in bare:
        raise InvalidParameter(f"insecure registry {text} should not contain '://'")
    if "/" in bare:
        try:
            return ipaddress.ip_network(bare, strict=False)
        except ValueError:
            raise InvalidParameter(
                f"insecure registry {text} is not valid: expected host[:port] or a CIDR"
            ) from None
    host, port = split_host(bare)
    if not host or host.startswith("-") or (port and not 0 < int(port) < 65536):
        raise InvalidParameter(f'insecure registry {text} is not valid: invalid host "{bare}"')
    return bare.lower()


def split_host(domain: str) -> tuple[str, str]:
    """`host:port` as host (lower case, no brackets) and port, which may be empty."""
    host, colon, port = domain.rpartition(":")
    if not colon or not port.isdigit():
        host, port = domain, ""
    return host.strip("[]").lower(), port


async def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return []  # the connection will say what is wrong with the name
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]
