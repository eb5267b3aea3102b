"""Which namespaces a container gets: new ones, others' by path, and the rest shared with us (config.json
linux.namespaces)."""

from __future__ import annotations

import os

from wherry.linux import process
from wherry.runtime import values
from wherry.runtime.errors import StartFailed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS: dict[str, int] = {
    "user": process.CLONE_NEWUSER,
    "cgroup": process.CLONE_NEWCGROUP,
    "ipc": process.CLONE_NEWIPC,
    "uts": process.CLONE_NEWUTS,
    "network": process.CLONE_NEWNET,
    "pid": process.CLONE_NEWPID,
    "mount": process.CLONE_NEWNS,
}


class Namespaces:
    """What linux.namespaces asks for. `joined` holds descriptors by flag: close() them after the fork."""

    __slots__ = ("joined", "new")

    def __init__(self, new: int, joined: dict[int, int]) -> None:
        self.new = new
        self.joined = joined

    @property
    def all(self) -> int:
        """The flags of all that differ, or may differ, from ours."""
        result = self.new
        for flag in self.joined:
            result |= flag
        return result

    def close(self) -> None:
        for descriptor in self.joined.values():
            os.close(descriptor)
        self.joined.clear()


def open_namespaces(entries: list[dict[str, Any]], *, network: int | None) -> Namespaces:
    """Check the list and open what is to be joined; `network` is a network namespace that is joined instead
    of a new one. The caller's descriptor is duplicated.
    """
    result = Namespaces(0, {})
    seen: set[str] = set()
    try:
        for entry in entries:
            kind = values.text(entry, "type")
            flag = FLAGS.get(kind)
            if flag is None:
                raise invalid(f"namespace {kind!r} does not exist")
            if kind in seen:
                raise invalid(f"malformed spec: duplicated namespace {kind!r}")
            seen.add(kind)
            path = values.text(entry, "path")
            if kind == "network" and network is not None:
                result.joined[flag] = os.dup(network)
            elif path:
                result.joined[flag] = _open(kind, flag, path)
            else:
                result.new |= flag
        if network is not None and "network" not in seen:
            result.joined[process.CLONE_NEWNET] = os.dup(network)
    except BaseException:
        result.close()
        raise
    return result


def _open(kind: str, flag: int, path: str) -> int:
    import fcntl

    if not path.startswith("/"):
        raise invalid(f"namespace path {path!r} is not absolute")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as exc:
        raise StartFailed("internal", f"lstat {path}: {os.strerror(exc.errno or 0).lower()}") from exc
    try:
        found = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError as exc:
        os.close(descriptor)
        raise invalid(f"{path!r} is not a namespace") from exc
    if found != flag:
        os.close(descriptor)
        raise invalid(f"{path!r} is not a {kind} namespace")
    return descriptor


_NS_GET_NSTYPE = 0xB703
