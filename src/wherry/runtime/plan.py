"""config.json understood: everything that can be refused is refused here, before anything is made."""

from __future__ import annotations

import os

from wherry.linux import process
from wherry.runtime import devices, hooks, mounts, procfs, values
from wherry.runtime.errors import invalid
from wherry.runtime.identity import Identity
from wherry.runtime.namespaces import Namespaces, open_namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_MAX_HOSTNAME = 64
_SUPPORTED_VERSION = "1."


class Plan:
    """One container to be made. The descriptors it holds are close()d by the maker after the fork."""

    __slots__ = (
        "annotations",
        "bundle",
        "container_id",
        "descriptors",
        "devices",
        "domainname",
        "gid_mappings",
        "hooks",
        "hostname",
        "identity",
        "keyring",
        "masked",
        "mounts",
        "namespaces",
        "pivot",
        "preserved",
        "propagation",
        "read_only",
        "read_only_paths",
        "resources",
        "root",
        "sysctl",
        "uid_mappings",
    )

    def __init__(
        self, spec: dict[str, Any], *, container_id: str, bundle: str, seccomp: bytes | None
    ) -> None:
        version = values.text(spec, "ociVersion", _SUPPORTED_VERSION)
        if not version.startswith(_SUPPORTED_VERSION):
            raise invalid(f"unsupported ociVersion {version!r}: want 1.x")
        if not spec.get("linux"):
            raise invalid("linux must be set in config.json")
        if not spec.get("process"):
            raise invalid("process must be set in config.json")
        linux = values.child(spec, "linux")
        self.container_id = container_id
        self.bundle = bundle
        self.identity = Identity(values.child(spec, "process"), seccomp)
        self.hostname = values.text(spec, "hostname")
        self.domainname = values.text(spec, "domainname")
        for name in (self.hostname, self.domainname):
            if len(name.encode()) > _MAX_HOSTNAME:
                raise invalid(f"host name {name!r} is longer than {_MAX_HOSTNAME} bytes")
        self.mounts = [mounts.parse(each) for each in values.children(spec, "mounts")]
        self.devices = devices.parse(values.children(linux, "devices"))
        self.masked = [_absolute("masked path", each) for each in values.texts(linux, "maskedPaths")]
        self.read_only_paths = [
            _absolute("read-only path", each) for each in values.texts(linux, "readonlyPaths")
        ]
        self.sysctl = {
            procfs.sysctl_path(key): value for key, value in values.mapping(linux, "sysctl").items()
        }
        self.propagation = values.text(linux, "rootfsPropagation")
        self.read_only = values.flag(values.child(spec, "root"), "readonly")
        self.resources = values.child(linux, "resources")
        self.annotations = values.mapping(spec, "annotations")
        self.hooks = hooks.parse(values.child(spec, "hooks"))
        self.uid_mappings = values.children(linux, "uidMappings")
        self.gid_mappings = values.children(linux, "gidMappings")
        self.namespaces = Namespaces(0, {})
        self.root = -1
        self.pivot = True
        self.keyring = True
        self.preserved = 0
        self.descriptors: list[int] = []

    def open_namespaces(self, entries: list[dict[str, Any]], network: int | None) -> None:
        """Open what is joined, and refuse what would change the host's own namespaces."""
        self.namespaces = open_namespaces(entries, network=network)
        have = self.namespaces.all
        if not have & process.CLONE_NEWNS:
            raise invalid("a container needs a mount namespace of its own")
        new_user = self.namespaces.new & process.CLONE_NEWUSER
        if new_user and not (self.uid_mappings and self.gid_mappings):
            raise invalid("user namespaces enabled, but no user ID and group ID mappings specified")
        if self.hostname and not have & process.CLONE_NEWUTS:
            raise invalid("unable to set hostname without a private UTS namespace")
        if self.domainname and not have & process.CLONE_NEWUTS:
            raise invalid("unable to set domainname without a private UTS namespace")
        for key in self.sysctl:
            _check_sysctl(key, have)

    def open_trees(self, assemble: Callable[[], int]) -> list[int]:
        """The maker's part: the root (made by `assemble`) and the clones of bind sources, in the host's
        namespaces.
        """
        self.root = assemble()
        for mount in self.mounts:
            mounts.open_source(mount, self.bundle)
        if self.binds_devices:
            for device in self.devices:
                devices.open_source(device)
        return [
            self.root,
            *(mount.tree for mount in self.mounts if mount.kind == "bind"),
            *self._device_trees(),
        ]

    def count_wanted_trees(self) -> int:
        count = 1 + sum(mount.kind == "bind" for mount in self.mounts)
        return count + (len(self.devices) if self.binds_devices else 0)

    def take_trees(self, trees: list[int]) -> None:
        """The child's part: its descriptors of what `open_trees` gave, in that order."""
        given = iter(trees)
        self.root = next(given)
        for mount in self.mounts:
            if mount.kind == "bind":
                mount.tree = next(given)
        if self.binds_devices:
            for device in self.devices:
                device.tree = next(given)

    @property
    def binds_devices(self) -> bool:
        """Nodes cannot be made in a user namespace of the container's own: the host's are bound."""
        return bool(self.namespaces.all & process.CLONE_NEWUSER)

    def _device_trees(self) -> list[int]:
        return [device.tree for device in self.devices] if self.binds_devices else []

    def close(self) -> None:
        """Close what was opened for the container; the caller's own descriptors are not among it."""
        self.namespaces.close()
        for mount in self.mounts:
            mounts.close(mount)
        for device in self.devices:
            if device.tree >= 0:
                os.close(device.tree)
                device.tree = -1
        if self.root >= 0:
            os.close(self.root)
            self.root = -1
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()


_IPC_SYSCTLS = frozenset(
    f"kernel/{name}"
    for name in ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"]
)


def _check_sysctl(key: str, have: int) -> None:
    """Only parameters that belong to a namespace of the container's own may be set."""
    shown = key.replace("/", ".")
    if key in _IPC_SYSCTLS or key.startswith("fs/mqueue/"):
        if have & process.CLONE_NEWIPC:
            return
        raise invalid(f'sysctl "{shown}" is not allowed in the hosts ipc namespace')
    if key.startswith("net/"):
        if have & process.CLONE_NEWNET:
            return
        raise invalid(f'sysctl "{shown}" not allowed in host network namespace')
    if key in ("kernel/domainname", "kernel/hostname") and have & process.CLONE_NEWUTS:
        return
    if key.startswith("user/") and have & process.CLONE_NEWUSER:
        return
    raise invalid(f'sysctl "{shown}" is not in a separate kernel namespace')


def _absolute(what: str, path: str) -> str:
    if not path.startswith("/"):
        raise invalid(f"invalid {what} {path!r}: want an absolute path")
    return path
