"""What a container finds in /dev: device nodes, the symlinks programs expect, and the console.

All of it is made by descriptor below the new root, so an image whose /dev is a symlink gets nothing on the
host.
"""

from __future__ import annotations

import errno
import os
import stat

from wherry.linux import files, mounts
from wherry.runtime import values
from wherry.runtime.errors import invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# path, type, major, minor, mode: those that the specification says every container has
DEFAULTS: tuple[tuple[str, str, int, int, int], ...] = (
    ("/dev/null", "c", 1, 3, 0o666),
    ("/dev/random", "c", 1, 8, 0o666),
    ("/dev/full", "c", 1, 7, 0o666),
    ("/dev/tty", "c", 5, 0, 0o666),
    ("/dev/zero", "c", 1, 5, 0o666),
    ("/dev/urandom", "c", 1, 9, 0o666),
)
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
)
_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


class Device:
    """One node to make. `tree`: a detached bind of the host's node, where nodes cannot be made; else -1."""

    __slots__ = ("gid", "is_made", "mode", "number", "path", "tree", "uid")

    def __init__(self, path: str, mode: int, number: int, uid: int, gid: int) -> None:
        self.path = path
        self.mode = mode
        self.number = number
        self.uid = uid
        self.gid = gid
        self.tree = -1
        self.is_made = False


def parse(entries: list[dict[str, Any]]) -> list[Device]:
    """linux.devices, checked, after the default ones it does not name itself."""
    found: dict[str, Device] = {}
    for path, kind, major, minor, mode in DEFAULTS:
        found[path] = Device(path, _TYPES[kind] | mode, os.makedev(major, minor), 0, 0)
    for entry in entries:
        path = values.text(entry, "path")
        kind = values.text(entry, "type")
        if not path.startswith("/"):
            raise invalid(f"invalid device path {path!r}: want an absolute one")
        if kind not in _TYPES:
            raise invalid(f"invalid type {kind!r} of device {path}: want c, b, u or p")
        mode = values.number(entry, "fileMode")
        found[os.path.normpath(path)] = Device(
            os.path.normpath(path),
            _TYPES[kind] | (0o666 if mode is None else mode & 0o7777),
            os.makedev(values.number(entry, "major") or 0, values.number(entry, "minor") or 0),
            values.number(entry, "uid") or 0,
            values.number(entry, "gid") or 0,
        )
    return list(found.values())


def open_source(device: Device) -> None:
    """Clone the host's node of the same name, which must be that device: for where none can be made."""
    tree = mounts.clone_tree(device.path)
    found = os.fstat(tree)
    if stat.S_IFMT(found.st_mode) != stat.S_IFMT(device.mode) or found.st_rdev != device.number:
        os.close(tree)
        raise invalid(f"device {device.path} is another one on the host")
    device.tree = tree


def fill(dev: int, devices: list[Device]) -> None:
    """Make the links, and the nodes that lie directly in /dev, in the new and still detached filesystem
    `dev`.

    The umask must be 0.
    """
    for device in devices:
        parent, name = os.path.split(device.path)
        if parent == "/dev" and name != "ptmx":
            _make_node(dev, name, device)
    _make_links(dev)


def make_all(root: int, devices: list[Device]) -> None:
    """Make every node that is not there yet; the umask must be 0."""
    directories: dict[str, int] = {}
    try:
        for device in devices:
            parent, name = os.path.split(device.path)
            if device.is_made or device.path == "/dev/ptmx":
                continue  # ptmx is always our own devpts' one
            if parent not in directories:
                directories[parent] = files.make_directory(root, parent)
            _make(directories[parent], name, device)
    finally:
        for descriptor in directories.values():
            os.close(descriptor)


def make_links(root: int) -> None:
    """The symlinks of /dev. One that is there stays, save ptmx, which must be our devpts' own."""
    directory = files.make_directory(root, "/dev")
    try:
        _make_links(directory)
    finally:
        os.close(directory)


def open_master(root: int) -> int:
    """A new pty of the container's own devpts: its master side."""
    master = files.open_below(root, "/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
    if not files.is_device(master, 5, 2) or files.filesystem_type(master) != _DEVPTS_SUPER_MAGIC:
        os.close(master)
        raise OSError(errno.ENODEV, "not a devpts ptmx", "/dev/pts/ptmx")
    return master


def mount_console(root: int, peer: int) -> None:
    """Bind the pty's own descriptor on /dev/console."""
    target = files.make_file(root, "/dev/console", 0o666)
    try:
        tree = mounts.clone_tree("", at=peer)
        try:
            mounts.attach(tree, target)
        finally:
            os.close(tree)
    finally:
        os.close(target)


def _make(directory: int, name: str, device: Device) -> None:
    if device.tree < 0:
        _make_node(directory, name, device)
        return
    target = files.make_file(directory, name)
    try:
        mounts.attach(device.tree, target)
    finally:
        os.close(target)


def _make_node(directory: int, name: str, device: Device) -> None:
    try:
        os.mknod(name, device.mode, device.number, dir_fd=directory)
    except FileExistsError:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IFMT(found.st_mode) == stat.S_IFMT(device.mode) and found.st_rdev == device.number:
            return
        # Something else has the name (an image with a file there): a mask or a program would trust it.
        os.unlink(name, dir_fd=directory)
        os.mknod(name, device.mode, device.number, dir_fd=directory)
    if device.uid or device.gid:
        os.chown(name, device.uid, device.gid, dir_fd=directory, follow_symlinks=False)
    device.is_made = True


def _make_links(directory: int) -> None:
    for target, name in _LINKS:
        try:
            os.symlink(target, name, dir_fd=directory)
        except FileExistsError:
            if name == "ptmx" and _read_link(directory, name) != target:
                os.unlink(name, dir_fd=directory)
                os.symlink(target, name, dir_fd=directory)


def _read_link(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None


_DEVPTS_SUPER_MAGIC = 0x1CD1
