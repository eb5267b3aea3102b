"""Writing to procfs: always through a descriptor of a procfs we mounted ourselves, never by a path that a
racing mount could have covered (CVE-2025-52881).
"""

from __future__ import annotations

import os

from wherry.linux import files, mounts
from wherry.runtime.errors import invalid

_INSIDE = (
    files.RESOLVE_BENEATH | files.RESOLVE_NO_XDEV | files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS
)
# /proc/self is a symlink of procfs itself.
_INSIDE_SELF = files.RESOLVE_BENEATH | files.RESOLVE_NO_XDEV | files.RESOLVE_NO_MAGICLINKS


def open_own() -> int:
    """A detached procfs of our pid namespace."""
    return mounts.new_filesystem("proc", [], mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC)


def write_sysctl(proc: int, key: str, value: str) -> None:
    """Set a kernel parameter of our namespaces."""
    path = sysctl_path(key)
    descriptor = files.open_below(proc, "sys/" + path, os.O_WRONLY, resolve=_INSIDE)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def sysctl_path(key: str) -> str:
    """Below /proc/sys: `net/ipv4/conf/eth0.1/x` for `net.ipv4.conf.eth0/1.x`, the two separators swapped as
    by sysctl(8); a key whose first separator is a slash is taken as a path.
    """
    dot, slash = key.find("."), key.find("/")
    if slash < 0 or 0 <= dot < slash:
        key = key.translate({ord("."): "/", ord("/"): "."})
    if not key or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise invalid(f"invalid sysctl {key!r}")
    return key


def write_self(proc: int, name: str, value: str) -> None:
    """Write to /proc/self/NAME."""
    descriptor = files.open_below(proc, "self/" + name, os.O_WRONLY, resolve=_INSIDE_SELF)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
