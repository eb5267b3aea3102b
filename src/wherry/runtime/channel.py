"""Messages between the process that makes a container and the container's first process.

A SOCK_SEQPACKET pair; each packet is one JSON object, descriptors ride along. Seen from the maker:

    maker → child   {"go": true}                            only in a user namespace: its ids are mapped
    maker → child   {"at": "trees"} + [root, binds…]        in as many packets as needed
    maker → child   {"at": "cgroup"}                        it can be joined
    child → maker   {"at": "namespaces"}                    only when hooks want to run now
    maker → child   {"go": true}                            only then
    child → maker   {"at": "created"} + [rootfs, console]   or {"error": {"kind", "message"}}
    maker → child   {"go": true}                            "start"
    child → maker   end of file: execve closed it           or {"error": …}
"""

from __future__ import annotations

import array
import json
import os
import socket

from wherry.runtime import values
from wherry.runtime.errors import INTERNAL, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIMIT = 65536
_MAX_DESCRIPTORS = 250  # the kernel's limit for one message is 253
_ANCILLARY = socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4)


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(channel: socket.socket, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
    """Send, unless the other side is gone: what it said last, or the end of file, comes with the next `receive`."""
    data = json.dumps(message).encode()
    rights = array.array("i", descriptors or ()).tobytes()
    try:
        channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [])
    except (BrokenPipeError, ConnectionResetError):
        pass


def receive(channel: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next message and its descriptors; (None, []) at the end of file."""
    try:
        data, ancillary, _, _ = channel.recvmsg(_LIMIT, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # Told once, when the other side closed with something unread: what it sent before is still to come.
        data, ancillary, _, _ = channel.recvmsg(_LIMIT, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, rights in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(rights[: len(rights) - len(rights) % 4])
    if not data:
        return None, []
    return json.loads(data), list(descriptors)


def send_trees(channel: socket.socket, trees: list[int]) -> None:
    for start in range(0, len(trees), _MAX_DESCRIPTORS):
        send(channel, {"at": "trees"}, trees[start : start + _MAX_DESCRIPTORS])


def send_failure(channel: socket.socket, failure: StartFailed) -> None:
    message = failure.message.encode("utf-8", "replace")[: _LIMIT // 2].decode("utf-8", "replace")
    send(channel, {"error": {"kind": failure.kind, "message": message}})


def expect(channel: socket.socket, at: str) -> list[int]:
    """Wait until the other side is at `at`, and give the descriptors it sent; StartFailed when it failed
    instead.
    """
    message, descriptors = receive(channel)
    if message is not None and message.get("at") == at:
        return descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    raise failure_in(message)


def failure_in(message: dict[str, Any] | None) -> StartFailed:
    if message is None:
        return StartFailed(
            INTERNAL, "unable to start container process: container init ended before it was ready"
        )
    error = values.child(message, "error")
    return StartFailed(
        str(error.get("kind") or INTERNAL), str(error.get("message") or f"unexpected message {message!r}")
    )


def expect_go(channel: socket.socket) -> None:
    """Wait for leave to go on; the end of file means that the maker is gone, and that we should be too."""
    message, _ = receive(channel)
    if message is None or not message.get("go"):
        os._exit(1)
