"""Where named data lives between containers: what a volume driver does.

A driver keeps volumes by name. It attaches nothing anywhere on the host for a container: `mount` says what the
container's own runtime has to mount (`Data`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """A mounted volume's data: a directory of the host (`path`), or a filesystem that is mounted for each container.

    `options` are mount options in mount(8)'s words. `is_fresh`: each mount of the filesystem is a new, empty one.
    """

    path: str = ""
    filesystem: str = ""
    device: str = ""
    options: tuple[str, ...] = ()
    is_fresh: bool = False


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as its driver knows it. `created_ns` 0: the driver does not tell."""

    name: str
    mountpoint: str = ""
    created_ns: int = 0
    status: dict[str, Any] | None = None
    options: dict[str, str] | None = None


class VolumeDriver(Protocol):
    """One driver. `name` is Docker's for it, `scope` "local" or "global". Raises wherry.errors, in bounded time.

    Those that come by entry point are made with the directory of all volumes, `DATA/volumes`, as only argument.
    """

    name: str
    scope: str

    def check(self, name: str, options: Mapping[str, str]) -> None:
        """Refuse a name or options that no volume of this driver can have: InvalidParameter. No I/O."""
        ...

    async def create(self, name: str, options: Mapping[str, str]) -> None:
        """The volume is there afterwards; one that is there already stays as it is."""
        ...

    async def remove(self, name: str) -> None:
        """The volume and its data are gone. Called again after a crash; one that is not there is no error."""
        ...

    async def find(self, name: str) -> Found | None: ...

    async def list(self) -> list[Found]: ...

    async def mount(self, name: str, options: Mapping[str, str], mount_id: str) -> Data:
        """What to mount for one container. `mount_id` (64 hex digits) is told to `unmount` again."""
        ...

    async def unmount(self, name: str, mount_id: str) -> None: ...

    async def recover(self) -> None:
        """Called once, before anything else: delete what a crash left half-made."""
        ...
