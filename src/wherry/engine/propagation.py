"""How mounts made later travel between the host and a bind: what Docker asks of shared and slave binds.

See mount_namespaces(7), "SHARED SUBTREES". A bind can only be shared, or a slave, of a mount that is itself one; and one
that shows our own data root must let the host's unmounts through, or a container would keep what the host let go.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from msgspec import structs

from wherry.engine.records import MountSpec
from wherry.errors import Internal, InvalidParameter

_SLAVES = ("slave", "rslave")
_SHARED = ("shared", "rshared")


def with_data_root(mounts: Iterable[MountSpec], data_root: str) -> tuple[MountSpec, ...]:
    """Binds of the data root, of what is in it or around it, become slaves unless they say otherwise. Docker's text."""
    return tuple(_beside_data_root(mount, data_root) if mount.type == "bind" else mount for mount in mounts)


def _beside_data_root(mount: MountSpec, data_root: str) -> MountSpec:
    if not touches(mount.source, data_root) or mount.propagation in ("rslave", "rshared"):
        return mount
    if mount.propagation != "rprivate" or "rprivate" in mount.mode.split(","):
        raise InvalidParameter(
            'invalid mount config: must use either propagation mode "rslave" or "rshared" when mount source is within the'
            f' daemon root, daemon root: "{data_root}", bind mount source: "{mount.source}", propagation:'
            f' "{mount.propagation}"'
        )
    options = tuple("rslave" if option == "rprivate" else option for option in mount.options)
    return structs.replace(mount, propagation="rslave", options=options)


def touches(path: str, root: str) -> bool:
    """Whether one lies within the other."""
    return os.path.commonpath((path, root)) in (path, root)


def check_source(mount: MountSpec, data_root: str, mountinfo: Sequence[str] | None = None) -> None:
    """Refuse, at a start, a shared or slave bind of what is neither. Docker's texts; what it forgives is forgiven."""
    if mount.type != "bind" or mount.propagation not in (*_SLAVES, *_SHARED):
        return
    source = os.path.realpath(mount.source)
    place, tags = _mount_of(source, mountinfo if mountinfo is not None else _read_mountinfo())
    is_shared = any(tag.startswith("shared:") for tag in tags)
    is_slave = any(tag.startswith("master:") for tag in tags)
    if mount.propagation in _SHARED and not is_shared:
        raise Internal(f"path {mount.source} is mounted on {place} but it is not a shared mount")
    if mount.propagation in _SLAVES and not (is_shared or is_slave) and not touches(source, data_root):
        raise Internal(f"path {mount.source} is mounted on {place} but it is not a shared or slave mount")


def _mount_of(path: str, mountinfo: Sequence[str]) -> tuple[str, list[str]]:
    """The mount that `path` is on, and its optional fields. proc(5), "/proc/pid/mountinfo"."""
    best: tuple[str, list[str]] = "/", []
    for line in mountinfo:
        fields = line.split(" ")
        place = fields[4].encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best[0]):  # a later mount on the same place hides the earlier
            best = place, fields[6 : fields.index("-")]
    return best


def _read_mountinfo() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()
