"""Which version of cgroups this host has, and the Cgroup for a path."""

from __future__ import annotations

import os

from wherry.linux.files import filesystem_type
from wherry.runtime.cgroups.driver import ROOT
from wherry.runtime.cgroups.v1 import HierarchiesCgroup
from wherry.runtime.cgroups.v2 import UnifiedCgroup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runtime.cgroups.driver import Cgroup

_CGROUP2_SUPER_MAGIC = 0x63677270


def cgroup_for(path: str) -> Cgroup:
    """The cgroup `path` (not made yet) with the version that is mounted at /sys/fs/cgroup.

    Paths come from the caller: anything but plain names between slashes is refused with StartFailed.
    """
    clean = clean_path(path)
    if is_unified():
        return UnifiedCgroup(clean)
    return HierarchiesCgroup(clean)


def clean_path(path: str) -> str:
    """`/a/b` for `a//b/`; StartFailed for `..`, for an empty path and for the root."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path or "\n" in path:
        raise ValueError(
            f"invalid cgroup path {path!r}: want names separated by slashes, such as /wherry/web"
        )
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
