"""The sockets the API is served on. The launcher keeps them while daemons come and go, so that clients queue."""

from __future__ import annotations

import grp
import os
import socket
import ssl
import stat

from wherry.daemon.config import DaemonSettings
from wherry.errors import InvalidParameter

BACKLOG = 4096
SD_LISTEN_FDS_START = 3


def open_listener(host: str, settings: DaemonSettings) -> socket.socket:
    """A listening socket for `unix://PATH`, `tcp://HOST:PORT` or `fd://`. Raises InvalidParameter or OSError."""
    scheme, separator, rest = host.partition("://")
    if not separator:
        raise InvalidParameter(f"invalid bind address format: {host}")
    if scheme == "unix":
        return listen_unix(rest or "/run/wherry/wherry.sock", group_id(settings))
    if scheme == "tcp":
        return _listen_tcp(rest, settings)
    if scheme == "fd":
        return _inherited()
    raise InvalidParameter(f"invalid bind address format: {host}: use unix://, tcp:// or fd://")


def group_id(settings: DaemonSettings) -> int:
    """The group of the unix socket; root's where Docker's group does not exist and none was asked for."""
    if settings.group.isdigit():
        return int(settings.group)
    try:
        return grp.getgrnam(settings.group).gr_gid
    except KeyError:
        if settings.is_group_explicit:
            raise InvalidParameter(f"group {settings.group} not found") from None
        return 0


def listen_unix(path: str, gid: int) -> socket.socket:
    """Listen at `path`, mode 0660. A dead socket there is replaced, a live one or another kind of file refused."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise InvalidParameter(f"cannot listen on {path}: a file that is no socket is there")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(path)
        raise InvalidParameter(f"cannot listen on {path}: another process does")
    except ConnectionRefusedError:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o117)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    os.chown(path, 0, gid)
    os.chmod(path, 0o660)
    listener.listen(BACKLOG)
    return listener


def _listen_tcp(address: str, settings: DaemonSettings) -> socket.socket:
    """TCP gives root to whoever connects, so it needs verified clients unless the administrator says `--tls=false`."""
    if not settings.tls_verify and settings.tls is not False:
        raise InvalidParameter(
            f"tcp://{address} without --tlsverify gives root to everybody who can connect: use --tlsverify with"
            " --tlscacert, --tlscert and --tlskey, or say --tls=false if that is meant"
        )
    name, _, port = address.rpartition(":")
    if not port.isdigit():
        raise InvalidParameter(f"invalid bind address format: tcp://{address}: use tcp://HOST:PORT")
    family = socket.AF_INET6 if name.startswith("[") else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((name.strip("[]") or "127.0.0.1", int(port)))
    listener.listen(BACKLOG)
    return listener


def _inherited() -> socket.socket:
    """The socket systemd passed (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not os.environ.get("LISTEN_FDS", "0").isdigit():
        raise InvalidParameter(
            "no sockets found via socket activation: make sure the service was started by systemd"
        )
    if int(os.environ.get("LISTEN_FDS", "0")) < 1:
        raise InvalidParameter(
            "no sockets found via socket activation: make sure the service was started by systemd"
        )
    os.set_inheritable(SD_LISTEN_FDS_START, False)
    return socket.socket(fileno=SD_LISTEN_FDS_START)


def tls_context(settings: DaemonSettings) -> ssl.SSLContext | None:
    """TLS 1.2 and newer, with the client's certificate demanded under `--tlsverify`; None without TLS."""
    if not (settings.tls or settings.tls_verify):
        return None
    if not settings.tls_cert or not settings.tls_key:
        raise InvalidParameter("TLS needs --tlscert and --tlskey")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        if settings.tls_verify:
            if not settings.tls_ca:
                raise InvalidParameter("--tlsverify needs --tlscacert")
            context.load_verify_locations(settings.tls_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:
        raise InvalidParameter(f"could not load TLS certificate or key: {exc}") from exc
    return context


def still_names(listener: socket.socket, host: str) -> bool:
    """Whether a listener kept from an earlier daemon is still what clients reach at `host`."""
    scheme, _, rest = host.partition("://")
    if scheme != "unix":
        return True
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(rest)
        return listener.getsockname() == rest
    except (OSError, BlockingIOError):
        return False
