"""Mounting, by the descriptor-based calls: fsopen(2), fsconfig(2), fsmount(2), open_tree(2), move_mount(2),
mount_setattr(2), and the two old calls that have no successor.

A mount made here is *detached*: it exists as a descriptor, nowhere in any namespace, and vanishes with its
last descriptor unless it is attached with `attach`.
"""

from __future__ import annotations

import ctypes
import os
import struct

from wherry.linux.libc import check, function, system_call

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
AT_SYMLINK_NOFOLLOW = 0x100

ATTR_RDONLY = 0x1
ATTR_NOSUID = 0x2
ATTR_NODEV = 0x4
ATTR_NOEXEC = 0x8
ATTR_ATIME = 0x70  # the mask of the three below
ATTR_RELATIME = 0x0
ATTR_NOATIME = 0x10
ATTR_STRICTATIME = 0x20
ATTR_NODIRATIME = 0x80
ATTR_IDMAP = 0x100000
ATTR_NOSYMFOLLOW = 0x200000

MS_RDONLY = 0x1
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

_OPEN_TREE_CLONE = 1
_O_CLOEXEC = os.O_CLOEXEC
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_SET_FD = 5
_FSCONFIG_CMD_CREATE = 6
_FROM_EMPTY_PATH = 0x4
_TO_EMPTY_PATH = 0x40

_int, _uint, _text = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p
_fsopen = system_call("fsopen", _text, _uint)
_fsconfig = system_call("fsconfig", _int, _uint, _text, _text, _int)
_fsmount = system_call("fsmount", _int, _uint, _uint)
_open_tree = system_call("open_tree", _int, _text, _uint)
_move_mount = system_call("move_mount", _int, _text, _int, _text, _uint)
_mount_setattr = system_call("mount_setattr", _int, _text, _uint, _text, ctypes.c_size_t)
_pivot_root = system_call("pivot_root", _text, _text)
_mount = function("mount", _text, _text, _text, ctypes.c_ulong, _text)
_umount2 = function("umount2", _text, _int)


def open_filesystem(kind: str) -> int:
    """A configuration context for a filesystem of type `kind`."""
    return check("fsopen", _fsopen(kind.encode(), _FSOPEN_CLOEXEC), kind)


def set_option(context: int, key: str, value: str | None = None) -> None:
    """Give the filesystem an option, `key=value` or a bare flag. What the filesystem says about it is in the
    error.
    """
    if value is None:
        result = _fsconfig(context, _FSCONFIG_SET_FLAG, key.encode(), None, 0)
    else:
        result = _fsconfig(context, _FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)
    if result < 0:
        _explain(context, key if value is None else f"{key}={value}")


def create_filesystem(context: int, subject: str) -> None:
    """Make the superblock, after the last option."""
    if _fsconfig(context, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
        _explain(context, subject)


def mount_filesystem(context: int, attributes: int = 0) -> int:
    """A detached mount of the filesystem that `create_filesystem` made."""
    return check("fsmount", _fsmount(context, _FSMOUNT_CLOEXEC, attributes))


def new_filesystem(kind: str, options: list[tuple[str, str | None]], attributes: int = 0) -> int:
    """A detached mount of a new filesystem: the four steps above in one."""
    context = open_filesystem(kind)
    try:
        for key, value in options:
            set_option(context, key, value)
        create_filesystem(context, kind)
        return mount_filesystem(context, attributes)
    finally:
        os.close(context)


def clone_tree(path: str, *, at: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached copy (a bind) of what is mounted at `path`, with what is mounted below it when `recursive`.

    An empty `path` means the descriptor `at` itself.
    """
    flags = _OPEN_TREE_CLONE | _O_CLOEXEC
    if recursive:
        flags |= AT_RECURSIVE
    if not path:
        flags |= AT_EMPTY_PATH
    return check("open_tree", _open_tree(at, os.fsencode(path), flags), path)


def attach(tree: int, target: int | str, *, at: int = AT_FDCWD) -> None:
    """Attach the detached mount `tree` at `target`: a descriptor of a directory or file, or a path from `at`."""
    if isinstance(target, int):
        result = _move_mount(tree, b"", target, b"", _FROM_EMPTY_PATH | _TO_EMPTY_PATH)
    else:
        result = _move_mount(tree, b"", at, os.fsencode(target), _FROM_EMPTY_PATH)
    check("move_mount", result)


def change_mount(
    tree: int,
    *,
    add: int = 0,
    remove: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    user_namespace: int = -1,
) -> None:
    """Change attributes (ATTR_…) and propagation (MS_SHARED, …) of the mount behind the descriptor `tree`."""
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    value = struct.pack("=QQQQ", add, remove, propagation, user_namespace if user_namespace >= 0 else 0)
    check("mount_setattr", _mount_setattr(tree, b"", flags, value, len(value)))


def set_propagation(path: str, propagation: int) -> None:
    """mount(2) with one of the propagation flags, MS_REC included where it is wanted."""
    check("mount", _mount(None, os.fsencode(path), None, propagation, None), path)


def unmount(path: str, flags: int = 0) -> None:
    check("umount2", _umount2(os.fsencode(path), flags), path)


def pivot_root(new: str, old: str) -> None:
    check("pivot_root", _pivot_root(os.fsencode(new), os.fsencode(old)), new)


def _explain(context: int, subject: str) -> None:
    """Raise the error of the last fsconfig, with what the filesystem wrote into its log (`e text`)."""
    number = ctypes.get_errno()
    said: list[str] = []
    try:
        while len(said) < 8:
            line = os.read(context, 512).decode("utf-8", "replace").strip()
            said.append(line[2:] if line[1:2] == " " else line)
    except OSError:
        pass  # ENODATA: the log is empty
    raise OSError(number, "; ".join(["fsconfig: " + os.strerror(number), *said]), subject)
