"""What `-v`, `--mount`, `--tmpfs`, `--volumes-from` and an image's VOLUME ask for, decided. Plain functions; nothing
here touches the disk.

Docker's volume/mounts parser is the reference for what is accepted and for the texts of what is not.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import UNSET, structs

from wherry.engine.records import MountSpec
from wherry.errors import InvalidParameter
from wherry.model.containers import BindOptions, HostConfig, Mount, TmpfsOptions

PROPAGATIONS = frozenset(("private", "rprivate", "shared", "rshared", "slave", "rslave"))
_MODES: dict[str, str] = {
    **dict.fromkeys(("ro", "rw"), "access"),
    **dict.fromkeys(("z", "Z"), "label"),
    **dict.fromkeys(PROPAGATIONS, "propagation"),
    "nocopy": "copy",
    **dict.fromkeys(("consistent", "cached", "delegated"), "consistency"),
}
"""The words behind the second colon, and their kinds: one of each may be given."""
_TMPFS_OPTIONS = frozenset(
    "ro rw suid nosuid dev nodev exec noexec sync async dirsync remount mand nomand atime noatime diratime nodiratime"
    " relatime norelatime strictatime nostrictatime bind rbind unbindable runbindable private rprivate shared rshared"
    " slave rslave".split()
)
_TMPFS_KEYS = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))
MAX_MOUNTS = 4096
"""Mounts of one container. A mount namespace holds 100,000 (fs.mount-max)."""

MountsOf = Callable[[str], Sequence[MountSpec]]
"""The mounts of the container with this name or ID. Raises InvalidParameter where there is none."""


def mounts_for(
    host: HostConfig, declared: Iterable[str] = (), *, mounts_of: MountsOf | None = None
) -> tuple[MountSpec, ...]:
    """Every mount of a container, in the order it must be made: parents before children.

    A bind or `--mount` takes the place of what comes by `--volumes-from`; `declared` (the targets of the image's
    VOLUMEs and of `-v TARGET`) get an anonymous volume where nothing else is.
    """
    mounts: dict[str, MountSpec] = {}
    for text in host.volumes_from or ():
        other, mode = read_volumes_from(text)
        for mount in mounts_of(other) if mounts_of else ():
            mounts[mount.target] = _inherited(mount, mode)
    given = [from_bind(text, host.volume_driver) for text in host.binds or ()]
    given += [from_mount(mount) for mount in (host.mounts or ()) if mount]
    if host.tmpfs is not UNSET:
        given += [tmpfs_mount(target, options) for target, options in host.tmpfs.items()]
    seen: set[str] = set()
    for mount in given:
        if mount.target in seen:
            raise InvalidParameter(f"Duplicate mount point: {mount.target}")
        seen.add(mount.target)
        mounts[mount.target] = mount
    for text in declared:
        mount = _declared(text, host.volume_driver)
        mounts.setdefault(mount.target, mount)
    if len(mounts) > MAX_MOUNTS:
        raise InvalidParameter(f"{len(mounts)} mounts: a container has at most {MAX_MOUNTS}")
    return tuple(sorted(mounts.values(), key=lambda mount: mount.target.count("/")))


def _declared(text: str, driver: str) -> MountSpec:
    """An anonymous volume at `text`, which is a path whatever it holds; a relative one begins at the root."""
    target = posixpath.normpath("/" + text.lstrip("/"))
    if target == "/":
        raise InvalidParameter(
            f"invalid volume {text!r} of the image or of -v: invalid specification: destination can't be '/'"
        )
    mount = _volume("", target, driver=driver, read_only=False, copies_up=True)
    return structs.replace(mount, is_declared=True)


def read_volumes_from(text: str) -> tuple[str, str]:
    """`CONTAINER[:MODE]`, with Docker's refusals."""
    if not text:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    other, _, mode = text.partition(":")
    kinds = _kinds_of(mode)
    if kinds is None or "propagation" in kinds or "copy" in kinds:
        raise InvalidParameter(f"invalid mode: {mode}")
    return other, mode or "rw"


def _inherited(mount: MountSpec, mode: str) -> MountSpec:
    if "ro" in mode.split(",") and not mount.read_only:
        options = (*mount.options[:1], "rro", *mount.options[1:])
        mount = structs.replace(mount, read_only=True, options=options)
    return structs.replace(mount, copies_up=False, mode="", is_added=False)


def _kinds_of(mode: str) -> frozenset[str] | None:
    """The kinds of words in `mode`; None where it is not one."""
    if not mode:
        return frozenset()
    kinds = [_MODES.get(word, "") for word in mode.split(",")]
    return None if "" in kinds or len(set(kinds)) < len(kinds) else frozenset(kinds)


def from_bind(spec: str, volume_driver: str = "") -> MountSpec:
    """`[SOURCE:]TARGET[:MODE]`, as -v has it. A source that is missing is made when the container starts."""
    parts = spec.split(":", 3)
    source, target, mode = "", parts[0], ""
    if len(parts) == 2:
        source, target = parts
    elif len(parts) == 3:
        source, target, mode = parts
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and _kinds_of(target) is not None):
        raise InvalidParameter(f"invalid volume specification: '{spec}'")
    if _kinds_of(mode) is None:
        raise InvalidParameter(f"invalid mode: {mode}")
    words = mode.split(",")
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    is_bind = source.startswith("/")
    kind = "bind" if is_bind else "volume"
    try:
        target = _target(target, kind)
        if propagation and not is_bind:
            raise _refusal(kind, "field BindOptions must not be specified")
        if is_bind and "nocopy" in words:
            raise _refusal(kind, "field VolumeOptions must not be specified")
    except InvalidParameter as exc:
        raise InvalidParameter(f"invalid volume specification: '{spec}': {exc}") from exc
    if not is_bind:
        return _volume(
            source, target, driver=volume_driver, read_only="ro" in words, copies_up="nocopy" not in words, mode=mode
        )  # fmt: skip
    return _bind(
        posixpath.normpath(source),
        target,
        read_only="ro" if "ro" in words else "",
        propagation=propagation,
        mode=mode,
        create=True,
    )


def _refusal(kind: str, why: str) -> InvalidParameter:
    return InvalidParameter(f'invalid mount config for type "{kind}": {why}')


def _target(text: str, kind: str) -> str:
    """The place of a mount, cleaned."""
    if not text:
        raise _refusal(kind, "field Target must not be empty")
    target = posixpath.normpath("/" + text.replace("\\", "/").lstrip("/"))
    if target == "/" and text.startswith(("/", "\\")):
        raise _refusal(kind, "invalid specification: destination can't be '/'")
    if not text.startswith("/"):
        raise _refusal(kind, f"invalid mount path: '{text}' mount path must be absolute")
    return "/" + posixpath.normpath(text).lstrip("/")


def _volume(
    name: str, target: str, *, driver: str, read_only: bool, copies_up: bool, mode: str = "", subpath: str = "",
    driver_options: Mapping[str, str] | None = None, labels: Mapping[str, str] | None = None, is_mount_api: bool = False,
) -> MountSpec:  # fmt: skip
    return MountSpec(
        type="volume",
        name=name,
        target=target,
        options=("rbind", *(("rro",) if read_only else ()), "rprivate"),
        mode=mode,
        read_only=read_only,
        driver=driver,
        driver_options=dict(driver_options) if driver_options is not None else None,
        labels=dict(labels) if labels is not None else None,
        subpath=subpath,
        copies_up=copies_up,
        is_anonymous=not name,
        is_mount_api=is_mount_api,
    )


def _bind(
    source: str, target: str, *, read_only: str, propagation: str, mode: str = "", create: bool = False,
    recursive: bool = True, is_mount_api: bool = False,
) -> MountSpec:  # fmt: skip
    """`read_only`: "", "ro" (with all that is mounted below, as Docker since 25) or "ro-top"."""
    options = ["rbind" if recursive else "bind"]
    if read_only:
        options.append("ro" if read_only == "ro-top" or not recursive else "rro")
    options.append(propagation or "rprivate")
    return MountSpec(
        type="bind",
        source=source,
        target=target,
        options=tuple(options),
        mode=mode,
        read_only=bool(read_only),
        propagation=propagation or "rprivate",
        create_source=create,
        is_mount_api=is_mount_api,
    )


def from_mount(mount: Mount) -> MountSpec:
    """One `--mount`."""
    kind = mount.type or ""
    for owner, name, value in (
        ("bind", "BindOptions", mount.bind_options),
        ("volume", "VolumeOptions", mount.volume_options),
        ("image", "ImageOptions", mount.image_options),
        ("tmpfs", "TmpfsOptions", mount.tmpfs_options),
    ):
        if value is not UNSET and kind != owner:
            raise _refusal(kind, f"field {name} must not be specified")
    target = _target(mount.target or "", kind)
    source = mount.source or ""
    if kind == "tmpfs":
        if source:
            raise _refusal(kind, "field Source must not be specified")
        return _tmpfs_from_mount(mount, target)
    if kind == "volume":
        return _volume_from_mount(mount, source, target)
    if kind == "image":
        if not source:
            raise _refusal(kind, "field Source must not be empty")
        subpath = (mount.image_options.subpath if mount.image_options is not UNSET else "") or ""
        _check_subpath(subpath, kind)
        return MountSpec(
            type="image",
            name=source,
            target=target,
            options=("ro", "rprivate"),
            read_only=True,
            propagation="rprivate",
            subpath=subpath,
            is_mount_api=True,
        )
    if kind != "bind":
        raise _refusal(kind, "mount type unknown")
    return _bind_from_mount(mount, source, target)


def _bind_from_mount(mount: Mount, source: str, target: str) -> MountSpec:
    if not source:
        raise _refusal("bind", "field Source must not be empty")
    options = mount.bind_options if mount.bind_options is not UNSET else BindOptions()
    propagation = options.propagation or ""
    if propagation and propagation not in PROPAGATIONS:
        raise _refusal("bind", f"invalid propagation mode: {propagation}")
    if not source.startswith("/"):
        raise _refusal("bind", f"invalid mount path: '{source}' mount path must be absolute")
    top_only, forced = options.read_only_non_recursive or False, options.read_only_force_recursive or False
    for asked, name in (
        (top_only, "BindOptions.ReadOnlyNonRecursive"),
        (forced, "BindOptions.ReadOnlyForceRecursive"),
    ):
        if asked and not mount.read_only:
            raise InvalidParameter(f"mount options conflict: !ReadOnly && {name}")
    if top_only and forced:
        raise InvalidParameter(
            "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"
        )
    return _bind(
        posixpath.normpath(source),
        target,
        read_only=("ro-top" if top_only else "ro") if mount.read_only else "",
        propagation=propagation,
        create=options.create_mountpoint or False,
        recursive=not (options.non_recursive or False),
        is_mount_api=True,
    )


def _volume_from_mount(mount: Mount, source: str, target: str) -> MountSpec:
    options = mount.volume_options
    if options is UNSET:
        return _volume(
            source, target, driver="", read_only=mount.read_only or False, copies_up=True, is_mount_api=True
        )
    subpath = options.subpath or ""
    if subpath and not source:
        raise _refusal("volume", "must not set Subpath when using anonymous volumes")
    _check_subpath(subpath, "volume")
    driver = options.driver_config if options.driver_config is not UNSET else None
    return _volume(
        source,
        target,
        driver=(driver.name or "") if driver else "",
        driver_options=(driver.options or None) if driver else None,
        labels=options.labels or None,
        read_only=mount.read_only or False,
        copies_up=not (options.no_copy or False),
        subpath=subpath,
        is_mount_api=True,
    )


def _check_subpath(subpath: str, kind: str) -> None:
    """As Go's filepath.IsLocal: relative, and within, by its text alone. Symlinks are refused when it is opened."""
    depth = 0
    for part in subpath.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0 or subpath.startswith("/"):
            raise _refusal(kind, "subpath must be a relative path within the volume")


def _tmpfs_from_mount(mount: Mount, target: str) -> MountSpec:
    given = mount.tmpfs_options if mount.tmpfs_options is not UNSET else TmpfsOptions()
    options: list[str] = ["ro"] if mount.read_only else []
    if given.mode:
        options.append(f"mode={given.mode & 0o7777:o}")
    if given.size_bytes:
        if given.size_bytes < 0:
            raise InvalidParameter(f"invalid tmpfs size: {given.size_bytes}")
        options.append(f"size={given.size_bytes}")
    for option in given.options or ():
        if not 1 <= len(option) <= 2:
            raise _refusal("tmpfs", "invalid option array length")
        if option[0] not in ("exec", "noexec"):
            raise _refusal("tmpfs", f"invalid option: {option[0]}")
        options.append("=".join(option))
    return MountSpec(
        type="tmpfs",
        target=target,
        options=tuple(_merge(["noexec", "nosuid", "nodev"], options)),
        read_only=bool(mount.read_only),
        is_mount_api=True,
    )


def tmpfs_mount(target: str, text: str) -> MountSpec:
    """One `--tmpfs TARGET[:OPTIONS]`. Later options win over the default noexec, nosuid, nodev."""
    if not target.startswith("/"):
        raise InvalidParameter(f"invalid mount path: '{target}' mount path must be absolute")
    target = "/" + posixpath.normpath(target).lstrip("/")
    if target == "/":
        raise InvalidParameter("invalid specification: destination can't be '/'")
    given = [word for word in text.split(",") if word]
    for word in given:
        key, has_value, _value = word.partition("=")
        if not (key in _TMPFS_KEYS if has_value else word in _TMPFS_OPTIONS):
            raise InvalidParameter(f"invalid tmpfs option {[word]!r}")
    return MountSpec(
        type="tmpfs",
        target=target,
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
