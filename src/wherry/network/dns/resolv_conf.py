"""resolv.conf(5): the host's, read as Docker reads it, and which resolvers it names.

What is written for a container is the engine's (engine/etc_files.py).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

PATH = "/etc/resolv.conf"
RESOLVED_PATH = "/run/systemd/resolve/resolv.conf"
"""Where systemd-resolved names the servers that it asks itself."""
_RESOLVED_STUB = "127.0.0.53"
_MAX_BYTES = 65536

FALLBACK = ("8.8.8.8", "8.8.4.4")
FALLBACK_IPV6 = ("2001:4860:4860::8888", "2001:4860:4860::8844")
"""What Docker uses where the host names no server that could be used."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ResolvConf(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says. `search` is that of its last such line, `options` are those of all."""

    path: str = PATH
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    other: tuple[str, ...] = ()  # lines we have no use for
    invalid: tuple[str, ...] = ()  # nameservers that are no addresses


class Server(NamedTuple):
    """A resolver to ask. `on_host`: from the host's network namespace, not from the container's."""

    address: str
    on_host: bool

    def __str__(self) -> str:
        return f"host({self.address})" if self.on_host else self.address


def read() -> ResolvConf:
    """The host's configuration; systemd-resolved's own where the host asks only its stub, as Docker."""
    conf = parse(read_file(PATH), PATH)
    if conf.nameservers == (_RESOLVED_STUB,) and os.path.exists(RESOLVED_PATH):
        return parse(read_file(RESOLVED_PATH), RESOLVED_PATH)
    return conf


def read_file(path: str) -> str:
    """A host's /etc file; empty where it is missing, at most 64 KiB of it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return ""


def parse(text: str, path: str = PATH) -> ResolvConf:
    servers: list[str] = []
    invalid: list[str] = []
    options: list[str] = []
    other: list[str] = []
    search: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        match words:
            case ["nameserver", address, *_]:
                (servers if find_address(address) else invalid).append(address)
            case ["domain" | "search", *domains]:
                search = domains or search
            case ["options", *more]:
                options += more
            case ["nameserver"]:
                pass
            case _:
                other.append(line)
    return ResolvConf(
        path=path,
        nameservers=tuple(servers),
        search=tuple(search),
        options=tuple(options),
        other=tuple(other),
        invalid=tuple(invalid),
    )


def find_address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def servers_for(conf: ResolvConf, chosen: Sequence[str], *, has_ipv6: bool) -> list[Server]:
    """Whom to ask for a container: those `chosen` for it (`--dns`), else the host's, else Docker's fallback.

    A loopback server of the host's is asked from the host, as is one that a container without IPv6 could not
    reach; one that was chosen is meant as the container sees it.
    """
    if chosen:
        return [Server(address, on_host=False) for address in chosen if find_address(address)]
    found: list[Server] = []
    for text in conf.nameservers:
        address = find_address(text)
        if address is None:
            continue
        is_v6 = address.version == 6
        on_host = address.is_loopback or (is_v6 and (not has_ipv6 or "%" in text))
        found.append(Server(text, on_host=on_host))
    if found:
        return found
    return [Server(address, on_host=False) for address in fallback(has_ipv6=has_ipv6)]


def fallback(*, has_ipv6: bool) -> tuple[str, ...]:
    return FALLBACK + (FALLBACK_IPV6 if has_ipv6 else ())


def ndots(options: Sequence[str]) -> int | None:
    """What the last good `ndots:` option says."""
    for option in reversed(options):
        name, _, value = option.partition(":")
        if name == "ndots" and value.isascii() and value.isdigit():
            return int(value)
    return None


class HostFile:
    """The host's resolv.conf, read again when it has changed."""

    def __init__(self) -> None:
        self._stamp: object = None
        self._conf = ResolvConf()

    def current(self) -> ResolvConf:
        stamp = (_stamp(PATH), _stamp(RESOLVED_PATH))
        if stamp != self._stamp:
            self._conf, self._stamp = read(), stamp
        return self._conf


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
