"""The files an engine puts over a container's own: /etc/hosts, /etc/hostname and /etc/resolv.conf, as Docker writes
them. Written in place: a rename would leave a bind-mounted file stale."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence

_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
_FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
"""What Docker writes where the host names no server a container could reach."""


def hosts_text(*, address: str, hostname: str, domainname: str, extra: Sequence[str], gateway: str) -> str:
    """`extra` are `--add-host` entries, `name:address` or `name:host-gateway`."""
    lines = [_HOSTS]
    for entry in extra:
        name, _, target = entry.partition(":") if "=" not in entry else entry.partition("=")
        lines.append(f"{gateway if target == 'host-gateway' else target}\t{name}\n")
    if address:
        names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
        lines.append(f"{address}\t{names}\n")
    return "".join(lines)


def resolv_conf_text(
    host_text: str,
    *,
    servers: Sequence[str],
    search: Sequence[str],
    options: Sequence[str],
    same_network: bool,
) -> str:
    """The host's resolver configuration without the servers a container cannot reach; with the user's in their place.

    `same_network`: the container uses the host's own network, so loopback servers are good.
    """
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in host_text.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) >= 2 and words[0] in found:
            if words[0] == "nameserver":
                found["nameserver"].append(words[1])
            else:
                found[words[0]] = words[1:]
    if not same_network:
        found["nameserver"] = [server for server in found["nameserver"] if not _is_loopback(server)]
    chosen = list(servers) or found["nameserver"] or list(_FALLBACK_SERVERS)
    lines = [f"nameserver {server}" for server in chosen]
    wanted_search = list(search) or found["search"]
    if wanted_search and wanted_search != ["."]:
        lines.append("search " + " ".join(wanted_search))
    wanted_options = list(options) or found["options"]
    if wanted_options:
        lines.append("options " + " ".join(wanted_options))
    return "\n".join(lines) + "\n"


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def read_host_file(path: str) -> str:
    """A host's /etc file; empty where it is missing, at most 64 KiB of it."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


def write_in_place(path: str, text: str) -> None:
    """`path` holds `text`, with the inode it had."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
