"""`--network` and `-p`: from their text to the API's values."""

from __future__ import annotations

from wherry.cli.mounts import split_csv

_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def read_network(text: str) -> dict[str, Any]:
    """One `--network`: a name, or `name=…,alias=…,ip=…`. Raises ValueError."""
    network: dict[str, Any] = {
        "name": text,
        "aliases": [],
        "driver_opts": {},
        "ip": "",
        "ip6": "",
        "mac": "",
        "link_local": [],
        "priority": 0,
    }
    if not _is_long_form(text):
        return network
    network["name"] = ""
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key, value = key.strip().lower(), value.strip()
        if not equals or not key:
            raise ValueError(f"invalid field {field}")
        if key == "name":
            network["name"] = value
        elif key == "alias":
            network["aliases"].append(value)
        elif key == "ip":
            network["ip"] = value
        elif key == "ip6":
            network["ip6"] = value
        elif key == "mac-address":
            network["mac"] = value
        elif key == "link-local-ip":
            network["link_local"].append(value)
        elif key == "gw-priority":
            network["priority"] = int(value)
        elif key == "driver-opt":
            name, found, option = value.partition("=")
            if not found:
                raise ValueError("invalid key value pair format in driver options")
            network["driver_opts"][name.lower()] = option
        else:
            raise ValueError(f"invalid field key {key}")
    return network


def _is_long_form(text: str) -> bool:
    """Whether a `=` stands between two words, as docker looks for it."""
    return any(
        sign == "=" and text[at - 1 : at] in _WORD and text[at + 1 : at + 2] in _WORD
        for at, sign in enumerate(text)
    )


def is_user_defined(name: str) -> bool:
    """Whether a network is one that somebody made, rather than a mode."""
    return name not in ("", "default", "bridge", "host", "none") and not name.startswith("container:")


def read_port_range(text: str) -> tuple[int, int]:
    """`80` or `80-90`. Raises ValueError with Go's text."""
    first, dash, last = text.partition("-")
    start = _read_port(first)
    end = _read_port(last) if dash else start
    if end < start:
        raise ValueError(f"invalid range specified for port: {text}")
    return start, end


def _read_port(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if int(text) > 65535:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return int(text)


def _from_long_form(text: str) -> str:
    """`published=8080,target=80,protocol=udp` in the short form."""
    fields = {"protocol": "tcp", "published": "", "target": ""}
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        if not equals or key not in fields:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{field}')")
        fields[key] = value
    if not fields["target"]:
        raise ValueError("invalid publish opts: target is required")
    if not fields["published"]:
        return f"{fields['target']}/{fields['protocol']}"
    return f"{fields['published']}:{fields['target']}/{fields['protocol']}"


def read_publish(text: str) -> list[tuple[str, str, str]]:
    """One `-p`, as (port with protocol, host address, host port or range) for each container port."""
    from wherry.cli.run_flags import is_ip

    if "=" in text:
        text = _from_long_form(text)
    ports, slash, proto = text.partition("/")
    proto = (proto if slash else "tcp").lower()
    head, _, container = ports.rpartition(":")
    address, _, host = head.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address and not is_ip(address):
        raise ValueError(f"invalid IP address: {address}")
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    try:
        first, last = read_port_range(container)
    except ValueError:
        raise ValueError(f"invalid containerPort: {container}") from None
    host_first = host_last = 0
    if host:
        try:
            host_first, host_last = read_port_range(host)
        except ValueError:
            raise ValueError(f"invalid hostPort: {host}") from None
        if last - first != host_last - host_first and last != first:
            raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    if proto not in ("tcp", "udp", "sctp"):
        raise ValueError(f"invalid proto: {proto}")
    result: list[tuple[str, str, str]] = []
    for offset in range(last - first + 1):
        given = str(host_first + offset) if host else ""
        if first == last and host_first != host_last:
            given = f"{host_first}-{host_last}"  # any free one of the range
        result.append((f"{first + offset}/{proto}", address, given))
    return result


def read_expose(text: str) -> list[str]:
    """One `--expose`, as ports with their protocol. Raises ValueError."""
    if ":" in text:
        raise ValueError(f"invalid port format for --expose: {text}")
    ports, slash, proto = text.partition("/")
    try:
        first, last = read_port_range(ports)
    except ValueError as exc:
        raise ValueError(f"invalid range format for --expose: {text}, error: {exc}") from None
    return [f"{port}/{proto if slash else 'tcp'}" for port in range(first, last + 1)]
