"""The mounts of config.json: parsed and checked before the fork, their sources opened in the host's mount
namespace, attached by the container's first process below its new root.

A mount is made detached with all its attributes (never writable for a moment when it shall be read-only) and
moved to its target, which is resolved inside the root by descriptor and made when it is missing.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat

from wherry.linux import files, mounts, process
from wherry.runtime import copyup, rootfs, values
from wherry.runtime.errors import INTERNAL, StartFailed, go_text, invalid, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# option: attributes to add, attributes to remove
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (mounts.ATTR_RDONLY, 0),
    "rw": (0, mounts.ATTR_RDONLY),
    "nosuid": (mounts.ATTR_NOSUID, 0),
    "suid": (0, mounts.ATTR_NOSUID),
    "nodev": (mounts.ATTR_NODEV, 0),
    "dev": (0, mounts.ATTR_NODEV),
    "noexec": (mounts.ATTR_NOEXEC, 0),
    "exec": (0, mounts.ATTR_NOEXEC),
    "noatime": (mounts.ATTR_NOATIME, mounts.ATTR_ATIME),
    "atime": (mounts.ATTR_RELATIME, mounts.ATTR_ATIME),
    "relatime": (mounts.ATTR_RELATIME, mounts.ATTR_ATIME),
    "norelatime": (mounts.ATTR_STRICTATIME, mounts.ATTR_ATIME),
    "strictatime": (mounts.ATTR_STRICTATIME, mounts.ATTR_ATIME),
    "nostrictatime": (mounts.ATTR_RELATIME, mounts.ATTR_ATIME),
    "nodiratime": (mounts.ATTR_NODIRATIME, 0),
    "diratime": (0, mounts.ATTR_NODIRATIME),
    "nosymfollow": (mounts.ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, mounts.ATTR_NOSYMFOLLOW),
}
_PROPAGATION: dict[str, tuple[int, bool]] = {
    "private": (mounts.MS_PRIVATE, False),
    "rprivate": (mounts.MS_PRIVATE, True),
    "slave": (mounts.MS_SLAVE, False),
    "rslave": (mounts.MS_SLAVE, True),
    "shared": (mounts.MS_SHARED, False),
    "rshared": (mounts.MS_SHARED, True),
    "unbindable": (mounts.MS_UNBINDABLE, False),
    "runbindable": (mounts.MS_UNBINDABLE, True),
}
# Flags of the filesystem itself, which fsconfig knows by the same names; the others switch nothing on.
_FILESYSTEM_FLAGS = frozenset(("sync", "dirsync", "lazytime", "mand", "silent"))
_NOTHING = frozenset(
    ("defaults", "async", "nolazytime", "nomand", "loud", "remount", "iversion", "noiversion", "acl")
)

# What may be mounted below /proc (by name): lxcfs and friends replace single files; nothing else there is
# safe, since the runtime and others trust what /proc says (CVE-2019-16884, CVE-2019-19921).
_ALLOWED_IN_PROC = frozenset(
    [
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    ]
)
_TYPES_IN_PROC = frozenset(("proc",))


class Mount:
    """One entry of `mounts`, understood. `tree` is its detached bind, or -1 for a filesystem made by the
    child.
    """

    __slots__ = (
        "add",
        "copies_up",
        "data",
        "destination",
        "kind",
        "late_read_only",
        "propagation",
        "recursive_add",
        "recursive_bind",
        "recursive_remove",
        "remove",
        "source",
        "source_is_directory",
        "subpath",
        "tree",
    )

    def __init__(self, kind: str, source: str, destination: str) -> None:
        self.kind = kind
        self.source = source
        self.destination = destination
        self.add = 0
        self.copies_up = False
        self.remove = 0
        self.recursive_add = 0
        self.recursive_remove = 0
        self.recursive_bind = False
        self.propagation: list[tuple[int, bool]] = []
        self.data: list[tuple[str, str | None]] = []
        self.late_read_only = False
        self.tree = -1
        self.source_is_directory = True
        self.subpath = ""


def parse(entry: dict[str, Any]) -> Mount:
    """A `mounts` entry of config.json, refused when it makes no sense or would undermine the container."""
    destination = values.text(entry, "destination")
    if not destination:
        raise invalid("mount destination is empty")
    # Relative destinations are old usage that runc still takes as relative to "/".
    destination = os.path.normpath("/" + destination.lstrip("/"))
    options = values.texts(entry, "options")
    kind = values.text(entry, "type")
    bind = "bind" in options or "rbind" in options
    mount = Mount("bind" if bind else kind, values.text(entry, "source"), destination)
    if not mount.kind:
        raise invalid(f"mount destination {destination}: no type and not a bind")
    for option in options:
        _parse_option(mount, option)
    if destination == "/":
        raise invalid('mount destination "/" is not allowed: the root filesystem is given by root.path')
    _check_proc(mount)
    if entry.get("uidMappings") or entry.get("gidMappings"):
        raise invalid(f"mount destination {destination}: id-mapped mounts are not supported")
    return mount


def find(entries: list[Mount], destination: str) -> Mount | None:
    """The last mount at `destination`, which is the one that shows."""
    return next((mount for mount in reversed(entries) if mount.destination == destination), None)


def known_options() -> list[str]:
    """The options that do not depend on the filesystem."""
    recursive = {f"r{option}" for option in _ATTRIBUTES}
    return sorted({*_ATTRIBUTES, *_PROPAGATION, *_FILESYSTEM_FLAGS, *_NOTHING, *recursive, "bind", "rbind"})


def open_source(mount: Mount, bundle: str) -> None:
    """Clone a bind's source, seen from here: the host's mount namespace. A relative path starts at the
    bundle.

    StartFailed says which mount it was, in runc's words.
    """
    if mount.kind != "bind":
        return
    try:
        _open_bind(mount, bundle)
    except OSError as exc:
        raise StartFailed(
            INTERNAL,
            "unable to start container process: error during container init:"
            f" error mounting {quote(mount.source)} to rootfs at {quote(mount.destination)}: {go_text(exc)}",
        ) from exc


def _open_bind(mount: Mount, bundle: str) -> None:
    if not mount.source:
        raise invalid(f"mount destination {mount.destination}: a bind without a source")
    path = mount.source if mount.source.startswith("/") else os.path.join(bundle, mount.source)
    elsewhere = _IN_NAMESPACE.fullmatch(path)
    if mount.subpath:
        mount.tree = _clone_subpath(path, mount.subpath, recursive=mount.recursive_bind)
    elif elsewhere:
        mount.tree = _clone_from_namespace(int(elsewhere[1]), elsewhere[2])
    else:
        mount.tree = mounts.clone_tree(path, recursive=mount.recursive_bind)
    try:
        # A clone of a shared mount is its peer: what is mounted below it inside must not reach the host, but
        # the other way is what a container, whose whole tree is a slave of the host's, expects.
        if not _shares(mount):
            mounts.change_mount(mount.tree, propagation=mounts.MS_SLAVE, recursive=True)
        _apply_attributes(mount)
    except BaseException:
        os.close(mount.tree)
        mount.tree = -1
        raise


_WITHIN = files.RESOLVE_BENEATH | files.RESOLVE_NO_SYMLINKS | files.RESOLVE_NO_MAGICLINKS


def _clone_subpath(path: str, subpath: str, *, recursive: bool) -> int:
    """Clone what is at `subpath` below the directory `path`. No symlink is followed on the way: whoever can write
    there could lead us anywhere (Kubernetes' CVE-2021-25741)."""
    base = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inner = _open_subpath(base, path, subpath)
        try:
            return mounts.clone_tree("", at=inner, recursive=recursive)
        finally:
            os.close(inner)
    finally:
        os.close(base)


def _open_subpath(base: int, path: str, subpath: str) -> int:
    """Raises StartFailed with Docker's texts."""
    try:
        return files.open_below(base, subpath, os.O_PATH, resolve=_WITHIN)
    except OSError as exc:
        if exc.errno == errno.EXDEV:
            raise invalid(
                f"path concatenation escapes the base directory, base: {path}, subpath: {subpath}"
            ) from exc
        raise invalid(f"cannot access path {os.path.join(path, subpath)}: {go_text(exc)}") from exc


_IN_NAMESPACE = re.compile(r"/proc/(\d+)/root(/.+)")


def _clone_from_namespace(pid: int, path: str) -> int:
    """Clone `path` of the mount namespace of process `pid`, as for `--ipc container:`.

    A tree can be cloned from within its own namespace alone, so a child steps in and sends the clone back. It is not
    dumpable there, opens nothing else, and resolves the path below that namespace's root.
    """
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            process.prctl(process.PR_SET_DUMPABLE, 0)
            process.setns(namespace, process.CLONE_NEWNS)
            tree = mounts.clone_tree(path)
            socket.send_fds(theirs, [b"t"], [tree])
            code = 0
        except OSError as exc:
            theirs.send(b"e%d" % (exc.errno or errno.EINVAL))
        finally:
            os._exit(code)
    theirs.close()
    os.close(namespace)
    try:
        message, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
        os.waitpid(child, 0)
    finally:
        ours.close()
    if not descriptors:
        number = int(message[1:] or errno.EINVAL)
        raise OSError(number, os.strerror(number), path)
    return descriptors[0]


def make_detached(mount: Mount) -> int:
    """The detached mount for an entry; new filesystems are made here, in the namespaces they belong to."""
    if mount.tree >= 0:
        return mount.tree
    # Nodes and mount points, or what is copied up, are still to be made in it.
    filled = mount.destination == "/dev" or mount.copies_up
    mount.late_read_only = filled and bool(mount.add & mounts.ATTR_RDONLY)
    options = list(mount.data)
    if mount.source:
        options.insert(0, ("source", mount.source))
    add = mount.add & ~mounts.ATTR_RDONLY if mount.late_read_only else mount.add
    if mount.kind == "overlay" and any(key == "lowerdir+" for key, _ in mount.data):
        tree = rootfs.overlay(_layers(mount.data), add & ~mounts.ATTR_IDMAP)
    else:
        tree = mounts.new_filesystem(mount.kind, options, add & ~mounts.ATTR_IDMAP)
    mount.tree = tree
    if mount.recursive_add or mount.recursive_remove:
        mounts.change_mount(tree, add=mount.recursive_add, remove=mount.recursive_remove)
    return tree


def _layers(options: list[tuple[str, str | None]]) -> dict[str, Any]:
    """An overlay's options as a Rootfs value, which can be mounted on every kernel."""
    given = {key: value or "" for key, value in options}
    others = [
        key if value is None else f"{key}={value}"
        for key, value in options
        if key not in ("lowerdir+", "upperdir", "workdir")
    ]
    return {
        "lower": [value for key, value in options if key == "lowerdir+"],
        "upper": given.get("upperdir", ""),
        "work": given.get("workdir", ""),
        "options": others,
    }


def _narrow(root: int, mount: Mount, tree: int) -> int:
    """What is at the mount's subpath, in place of the whole filesystem `tree`, which is ours alone.

    Only what is attached can be cloned (before Linux 6.15): it is, on top of the root, for as long as that takes.
    """
    mounts.attach(tree, root)
    try:
        inner = _open_subpath(tree, mount.destination, mount.subpath)
        try:
            return mounts.clone_tree("", at=inner)
        finally:
            os.close(inner)
    finally:
        os.fchdir(tree)
        mounts.unmount(".", mounts.MNT_DETACH)
        os.chdir("/")
        os.close(tree)
        mount.tree = -1


def open_target(root: int, mount: Mount) -> int:
    """The O_PATH descriptor of the place to mount on, made when it is missing: a directory or a file, as the
    source.

    /proc and /sys must be directories of the root itself: in an image where they are symlinks, masks and
    read-only paths would be put elsewhere (CVE-2019-19921, CVE-2023-27561).
    """
    if mount.kind in ("proc", "sysfs"):
        try:
            os.close(files.open_below(root, mount.destination, os.O_PATH, resolve=_NO_SYMLINKS))
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise invalid(f"filesystem {mount.kind!r} must be mounted on ordinary directory") from exc
    if mount.source_is_directory:
        return files.make_directory(root, mount.destination)
    return files.make_file(root, mount.destination)


def attach(root: int, mount: Mount) -> None:
    """Make and attach one mount below `root`, propagation last."""
    tree = make_detached(mount)
    if mount.subpath and mount.kind != "bind":
        tree = mount.tree = _narrow(root, mount, tree)
    if mount.kind == "bind" or mount.subpath:
        mount.source_is_directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    existed = mount.kind != "tmpfs" or _exists(root, mount.destination)
    target = open_target(root, mount)
    try:
        if mount.kind == "tmpfs" and existed:
            _take_over(mount, target, tree)
        mounts.attach(tree, target)
    finally:
        os.close(target)
    for propagation, recursive in mount.propagation:
        mounts.change_mount(tree, propagation=propagation, recursive=recursive)


def _exists(root: int, path: str) -> bool:
    try:
        os.close(files.open_below(root, path, os.O_PATH))
    except FileNotFoundError:
        return False
    return True


def _take_over(mount: Mount, target: int, tree: int) -> None:
    """Over a directory of the image: its mode, unless one is asked for, and its contents, if asked for."""
    if mount.copies_up:
        copyup.copy_directory(target, tree)
    elif not any(key == "mode" for key, _ in mount.data):
        os.chmod(".", stat.S_IMODE(os.fstat(target).st_mode), dir_fd=tree)


def close(mount: Mount) -> None:
    if mount.tree >= 0:
        os.close(mount.tree)
        mount.tree = -1


def _parse_option(mount: Mount, option: str) -> None:
    if option in ("bind", "rbind"):
        mount.recursive_bind = mount.recursive_bind or option == "rbind"
    elif option in _ATTRIBUTES:
        add, remove = _ATTRIBUTES[option]
        mount.add = mount.add & ~remove | add
        mount.remove = mount.remove & ~add | remove
    elif option in _PROPAGATION:
        mount.propagation.append(_PROPAGATION[option])
    elif option in _FILESYSTEM_FLAGS:
        if mount.kind != "bind":
            mount.data.append((option, None))
    elif option in _NOTHING:
        pass
    elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
        add, remove = _ATTRIBUTES[option[1:]]
        mount.recursive_add = mount.recursive_add & ~remove | add
        mount.recursive_remove = mount.recursive_remove & ~add | remove
    elif option.startswith("X-wherry.subpath="):
        mount.subpath = option.partition("=")[2]
    elif option in ("tmpcopyup", "notmpcopyup"):
        if mount.kind != "tmpfs":
            raise invalid(f"mount destination {mount.destination}: option {option} is for tmpfs only")
        mount.copies_up = option == "tmpcopyup"
    elif mount.kind != "bind":
        key, equals, value = option.partition("=")
        mount.data.append((key, value if equals else None))
    elif option.partition("=")[0] not in (
        "X-mount.mkdir",
        "x-mount.mkdir",
        "idmap",
        "ridmap",
        "copy",
        "nocopy",
        "z",
        "Z",
    ):
        raise invalid(f"mount destination {mount.destination}: unknown bind option {option!r}")
    elif option in ("idmap", "ridmap"):
        raise invalid(f"mount destination {mount.destination}: id-mapped mounts are not supported")


def _apply_attributes(mount: Mount) -> None:
    if mount.recursive_add or mount.recursive_remove:
        mounts.change_mount(
            mount.tree, add=mount.recursive_add, remove=mount.recursive_remove, recursive=True
        )
    if mount.add or mount.remove:
        mounts.change_mount(mount.tree, add=mount.add, remove=mount.remove)


def _shares(mount: Mount) -> bool:
    """Whether the entry asks for two-way propagation with the host."""
    return any(propagation == mounts.MS_SHARED for propagation, _ in mount.propagation)


def _check_proc(mount: Mount) -> None:
    """Refuse what lies on or below /proc, save a procfs on it and single files that tools are known to
    replace.
    """
    place = mount.destination
    if place != "/proc" and not place.startswith("/proc/"):
        return
    if place == "/proc":
        if mount.kind in _TYPES_IN_PROC:
            return
        if mount.kind == "bind" and _is_procfs(mount.source):
            return
        raise invalid(f'mount destination "{place}" is not of type proc')
    if place not in _ALLOWED_IN_PROC:
        raise invalid(f'mount destination "{place}" cannot be mounted because it is inside /proc')


def _is_procfs(path: str) -> bool:
    """Whether the host's `path` is the root of a procfs: privileged pods bind the host's /proc as a whole."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return files.filesystem_type(descriptor) == PROC_SUPER_MAGIC and os.fstat(descriptor).st_ino == 1
    finally:
        os.close(descriptor)


_NO_SYMLINKS = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_SYMLINKS
PROC_SUPER_MAGIC = 0x9FA0
