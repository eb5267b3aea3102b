"""What the runtime needs of control groups, whichever version the host has.

v1.py and v2.py implement `Cgroup`; `cgroup_for` chooses. A cgroup is named by its path below the hierarchy's
root, such as `/wherry/ID`; the same path is used in every v1 hierarchy.
"""

from __future__ import annotations

import os

from wherry.linux.files import filesystem_type
from wherry.runtime.cgroups import systemd
from wherry.runtime.cgroups.tree import ROOT
from wherry.runtime.cgroups.v1 import HierarchiesCgroup
from wherry.runtime.cgroups.v2 import UnifiedCgroup
from wherry.runtime.errors import invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

_CGROUP2_SUPER_MAGIC = 0x63677270


class Cgroup(Protocol):
    """One container's cgroup. Every method may be called again after it failed or succeeded."""

    path: str
    is_born_into: bool
    """Whether the first process starts its life in it: then it is created before that."""

    @property
    def birthplace(self) -> int:
        """Descriptor of the directory that clone3(2) can put a child in, or -1: then the child calls `join`."""
        raise NotImplementedError

    def create(self, resources: dict[str, Any], *, member: int = 0) -> None:
        """Make the cgroup, limited by `resources` (config.json linux.resources), or raise and leave nothing.

        `member`: the first process, when it is there already. One that has other processes in it is refused:
        they are somebody else's.
        """
        raise NotImplementedError

    def open(self) -> None:
        """Get `birthplace` for a cgroup that was made by another process."""
        raise NotImplementedError

    def open_doors(self) -> None:
        """Let a child that is cloned from now on `join` without our privileges (in a user namespace of its
        own).
        """
        raise NotImplementedError

    def close_doors(self) -> None:
        """The end of that, for those cloned later; a child's own doors stay open."""
        raise NotImplementedError

    def join(self) -> None:
        """Move the calling, single-threaded process in."""
        raise NotImplementedError

    def update(self, resources: dict[str, Any]) -> None:
        """Change the limits that `resources` names."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """Every process in it and below it, as seen from our pid namespace."""
        raise NotImplementedError

    def kill(self) -> None:
        """SIGKILL every process in it and below it, those that fork meanwhile included."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Every process stops, and stays so until `thaw`."""
        raise NotImplementedError

    def thaw(self) -> None:
        """Every process goes on."""
        raise NotImplementedError

    def is_frozen(self) -> bool:
        """Whether `freeze` was the last of the two."""
        raise NotImplementedError

    def open_oom_events(self) -> int:
        """A descriptor that becomes readable when the memory limit was hit."""
        raise NotImplementedError

    def oom_kill_count(self) -> int:
        """How many processes the kernel killed in it for want of memory."""
        raise NotImplementedError

    def directories(self) -> dict[str, str]:
        """Where its files are, by controller; v2 has one, under the name `""`."""
        raise NotImplementedError

    def remove(self) -> None:
        """The cgroup and those below are gone; its processes must be dead or about to be."""
        raise NotImplementedError


def cgroup_for(path: str) -> Cgroup:
    """The cgroup `path` (not made yet) with the version that is mounted at /sys/fs/cgroup.

    `slice:prefix:name` in place of a path is a scope that systemd makes.

    Paths come from the caller: anything but plain names between slashes is refused with StartFailed.
    """
    if ":" in path and "/" not in path:
        slice_name, unit = systemd.parse(path)
        return systemd.ScopeCgroup(path, _plain(f"{systemd.slice_path(slice_name)}/{unit}"))
    return _plain(clean_path(path))


def _plain(path: str) -> Cgroup:
    return UnifiedCgroup(path) if is_unified() else HierarchiesCgroup(path)


def clean_path(path: str) -> str:
    """`/a/b` for `a//b/`; StartFailed for `..`, for an empty path and for the root."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path or "\n" in path:
        raise invalid(f"invalid cgroup path {path!r}: want names separated by slashes, such as /wherry/web")
    return "/" + "/".join(parts)


def is_unified() -> bool:
    """Whether the host has cgroup v2 alone."""
    global _unified
    if _unified is None:
        try:
            descriptor = os.open(ROOT, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            _unified = filesystem_type(descriptor) == _CGROUP2_SUPER_MAGIC
        finally:
            os.close(descriptor)
    return _unified


_unified: bool | None = None
