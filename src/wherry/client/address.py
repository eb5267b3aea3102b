"""Where an engine listens: `unix:///path`, `tcp://host:port` or `ssh://host`."""

from __future__ import annotations

from wherry.errors import InvalidParameter

DEFAULT_SOCKET = "/run/wherry/wherry.sock"
DEFAULT_PORT = 2375
DEFAULT_TLS_PORT = 2376


class Address:
    """One parsed address. `path` is set for a unix socket, `host` and `port` for TCP, `ssh` for a machine."""

    __slots__ = ("host", "path", "port", "ssh", "text")

    def __init__(self, text: str, *, path: str = "", host: str = "", port: int = 0, ssh: str = "") -> None:
        self.text = text
        self.path = path
        self.host = host
        self.port = port
        self.ssh = ssh


def parse_address(text: str, *, tls: bool = False) -> Address:
    """Read a host as given to `-H`. Raises InvalidParameter with Docker's text for an unknown form."""
    given = text.strip()
    scheme, separator, rest = given.partition("://")
    if not separator:
        scheme, rest = "tcp", given  # docker takes a bare host:port for TCP
    if scheme == "unix":
        path = rest or DEFAULT_SOCKET
        return Address(f"unix://{path}", path=path)
    if scheme in ("tcp", "http", "https"):
        host, port = _split_port(rest.split("/", 1)[0], DEFAULT_TLS_PORT if tls else DEFAULT_PORT, given)
        shown = f"[{host}]" if ":" in host else host
        return Address(f"tcp://{shown}:{port}", host=host, port=port)
    if scheme == "ssh" and rest:
        return Address(given, ssh=rest)
    raise InvalidParameter(f"unable to resolve docker endpoint: invalid bind address format: {given}")


def _split_port(text: str, default: int, given: str) -> tuple[str, int]:
    if text.startswith("["):
        host, _, tail = text[1:].partition("]")
        port_text = tail[1:] if tail.startswith(":") else ""
    else:
        host, _, port_text = text.partition(":")
    if not port_text:
        return host or "127.0.0.1", default
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
        raise InvalidParameter(f"unable to resolve docker endpoint: invalid bind address format: {given}")
    return host or "127.0.0.1", int(port_text)
