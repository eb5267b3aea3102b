"""An engine on another machine, through `ssh HOST docker system dial-stdio`, as docker does it."""

from __future__ import annotations

import _socket
import os

from wherry.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client.http import Socket


def ssh_command(target: str) -> list[str]:
    """The command for `[user@]host[:port]`. Raises InvalidParameter for what ssh could take for an option."""
    place = target.rstrip("/").split("/", 1)[0]
    user, at, host = place.rpartition("@")
    host, _, port = host.partition(":")
    if not host or host.startswith("-") or user.startswith("-") or (port and not port.isdigit()):
        raise InvalidParameter(f"invalid ssh host {target!r}: use ssh://[user@]host[:port]")
    command = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    if port:
        command += ["-p", port]
    return [*command, "--", f"{user}{at}{host}", "docker", "system", "dial-stdio"]


def connect_ssh(target: str) -> Socket:
    """A socket whose other end is the remote engine. ssh's own messages go to our standard error."""
    command = ssh_command(target)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0), (os.POSIX_SPAWN_DUP2, theirs.fileno(), 1)]
    try:
        os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return ours
