"""What `-v`, `--mount` and `--tmpfs` ask for, decided. Plain functions; nothing here touches the disk.

Docker's volume/mounts parser is the reference for what is accepted and for the texts of what is not.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable

from msgspec import UNSET

from wherry.engine.records import MountSpec
from wherry.errors import InvalidParameter, Unsupported
from wherry.model.containers import HostConfig, Mount

PROPAGATIONS = frozenset(("private", "rprivate", "shared", "rshared", "slave", "rslave"))
_MODES = frozenset(("ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated"))
_TMPFS_OPTIONS = frozenset(
    "ro rw suid nosuid dev nodev exec noexec sync async dirsync remount mand nomand atime noatime diratime nodiratime"
    " relatime norelatime strictatime nostrictatime bind rbind unbindable runbindable private rprivate shared rshared"
    " slave rslave".split()
)
_TMPFS_KEYS = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


def mounts_for(host: HostConfig) -> tuple[MountSpec, ...]:
    """Every mount of `host`, in the order it must be made: parents before children."""
    mounts = [_from_bind(text) for text in host.binds or ()]
    mounts += [_from_mount(mount) for mount in host.mounts or () if mount]
    if host.tmpfs is not UNSET:
        mounts += [tmpfs_mount(target, options) for target, options in host.tmpfs.items()]
    seen: set[str] = set()
    for mount in mounts:
        if mount.target in seen:
            raise InvalidParameter(f"Duplicate mount point: {mount.target}")
        seen.add(mount.target)
    return tuple(sorted(mounts, key=lambda mount: mount.target.count("/")))


def _target(text: str, spec: str) -> str:
    if not text.startswith("/"):
        raise InvalidParameter(
            f"invalid volume specification: '{spec}': invalid mount config for type \"bind\": "
            f"invalid mount path: '{text}' mount path must be absolute"
        )
    target = posixpath.normpath(text)
    target = "/" + target.lstrip("/")
    if target == "/":
        raise InvalidParameter(
            f"invalid volume specification: '{spec}': invalid specification: destination can't be '/'"
        )
    return target


def _from_bind(spec: str) -> MountSpec:
    """`source:target[:mode]`. A source that is missing is made, as a directory, when the container starts."""
    parts = spec.split(":")
    if len(parts) not in (2, 3) or not all(parts[:2]):
        raise InvalidParameter(f"invalid volume specification: '{spec}'")
    source, mode = parts[0], parts[2] if len(parts) == 3 else ""
    target = _target(parts[1], spec)
    words = [word for word in mode.split(",") if word]
    propagation = ""
    for word in words:
        if word in PROPAGATIONS and not propagation:
            propagation = word
        elif word not in _MODES or words.count(word) > 1 or {"ro", "rw"} <= set(words):
            raise InvalidParameter(f"invalid mode: {mode}")
    if not source.startswith("/"):
        if not _VOLUME_NAME.fullmatch(source):
            raise InvalidParameter(
                f'create {source}: "{source}" includes invalid characters for a local volume name, only'
                ' "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        raise Unsupported(
            f"named volumes are not supported yet ({spec!r}): give the absolute path of a directory on the host"
        )
    return _bind(
        posixpath.normpath(source),
        target,
        read_only="ro" in words,
        propagation=propagation,
        mode=mode,
        create=True,
    )


def _bind(
    source: str, target: str, *, read_only: bool, propagation: str, mode: str = "", create: bool = False,
    recursive: bool = True, is_mount_api: bool = False,
) -> MountSpec:  # fmt: skip
    options = ["rbind" if recursive else "bind"]
    if read_only:
        options.append("ro")
    options.append(propagation or "rprivate")
    return MountSpec(
        type="bind",
        source=source,
        target=target,
        options=tuple(options),
        mode=mode,
        read_only=read_only,
        propagation=propagation or "rprivate",
        create_source=create,
        is_mount_api=is_mount_api,
    )


def _from_mount(mount: Mount) -> MountSpec:
    kind = mount.type or "bind"

    def refuse(why: str) -> InvalidParameter:
        return InvalidParameter(f'invalid mount config for type "{kind}": {why}')

    if not mount.target:
        raise refuse("field Target must not be empty")
    target = mount.target
    if not target.startswith("/"):
        raise refuse(f"invalid mount path: '{target}' mount path must be absolute")
    target = "/" + posixpath.normpath(target).lstrip("/")
    if target == "/":
        raise refuse("invalid specification: destination can't be '/'")
    if kind == "tmpfs":
        if mount.source:
            raise refuse("field Source must not be specified")
        return _tmpfs_from_mount(mount, target)
    if kind == "volume":
        raise Unsupported("volumes are not supported yet: use a bind mount, type=bind")
    if kind != "bind":
        raise refuse("mount type unknown")
    if not mount.source:
        raise refuse("field Source must not be empty")
    if not mount.source.startswith("/"):
        raise refuse(f"invalid mount path: '{mount.source}' mount path must be absolute")
    if mount.tmpfs_options is not UNSET:
        raise refuse("field TmpfsOptions must not be specified")
    propagation = ""
    recursive = create = False
    recursive = True
    if mount.bind_options is not UNSET:
        propagation = mount.bind_options.propagation or ""
        if propagation and propagation not in PROPAGATIONS:
            raise refuse(f"invalid propagation mode: {propagation}")
        recursive = not (mount.bind_options.non_recursive or False)
        create = mount.bind_options.create_mountpoint or False
    return _bind(
        posixpath.normpath(mount.source), target, read_only=mount.read_only or False, propagation=propagation,
        create=create, recursive=recursive, is_mount_api=True,
    )  # fmt: skip


def _tmpfs_from_mount(mount: Mount, target: str) -> MountSpec:
    options = ["noexec", "nosuid", "nodev"]
    if mount.read_only:
        options.append("ro")
    if mount.tmpfs_options is not UNSET:
        if mount.tmpfs_options.size_bytes:
            if mount.tmpfs_options.size_bytes < 0:
                raise InvalidParameter(f"invalid tmpfs size: {mount.tmpfs_options.size_bytes}")
            options.append(f"size={mount.tmpfs_options.size_bytes}")
        if mount.tmpfs_options.mode:
            options.append(f"mode={mount.tmpfs_options.mode & 0o7777:o}")
    return MountSpec(
        type="tmpfs",
        target=target,
        options=tuple(options),
        read_only=bool(mount.read_only),
        is_mount_api=True,
    )


def tmpfs_mount(target: str, text: str) -> MountSpec:
    """One `--tmpfs TARGET[:OPTIONS]`. Later options win over the default noexec, nosuid, nodev."""
    if not target.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{target}' mount path must be absolute")
    given = [word for word in text.split(",") if word]
    for word in given:
        key, has_value, _value = word.partition("=")
        if not (key in _TMPFS_KEYS if has_value else word in _TMPFS_OPTIONS):
            raise InvalidParameter(f"invalid tmpfs option {[word]!r}")
    return MountSpec(
        type="tmpfs",
        target="/" + posixpath.normpath(target).lstrip("/"),
        options=tuple(_merge(["noexec", "nosuid", "nodev", "rprivate"], given)),
        mode=text,
        read_only="ro" in given,
    )


def _merge(defaults: Iterable[str], given: Iterable[str]) -> list[str]:
    """`defaults` without those that `given` contradicts, then `given`."""
    given = list(given)
    opposites = {"noexec": "exec", "nosuid": "suid", "nodev": "dev"}
    kept = [word for word in defaults if opposites.get(word) not in given and word not in given]
    return kept + given
