"""Hiding what lies in /proc and /sys: masked paths read as nothing, read-only paths cannot be written."""

from __future__ import annotations

import errno
import os
import stat

from wherry.linux import files, mounts

_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_NOTHING = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV | mounts.ATTR_NOEXEC


def make_nothing() -> int:
    """The empty read-only filesystem that hides directories, detached."""
    return mounts.new_filesystem("tmpfs", [("source", "tmpfs"), ("nr_inodes", "2")], _NOTHING)


def mask(root: int, paths: list[str], nothing: int) -> None:
    """Put the null device over files and `nothing`, one for all, over directories; absent paths are left."""
    null = -1
    is_attached = False
    try:
        for path in paths:
            target = _find(root, path)
            if target < 0:
                continue
            try:
                if not stat.S_ISDIR(os.fstat(target).st_mode):
                    if null < 0:
                        null = _open_null(root)
                    _attach_clone(null, target)
                elif is_attached:
                    _attach_clone(nothing, target)
                else:
                    mounts.attach(nothing, target)
                    is_attached = True  # only what is attached can be cloned
            finally:
                os.close(target)
    finally:
        if null >= 0:
            os.close(null)


def make_read_only(root: int, paths: list[str]) -> None:
    """Bind each path on itself, read-only with everything mounted below."""
    for path in paths:
        target = _find(root, path)
        if target < 0:
            continue
        try:
            tree = mounts.clone_tree("", at=target, recursive=True)
            try:
                mounts.change_mount(tree, add=mounts.ATTR_RDONLY, recursive=True)
                mounts.attach(tree, target)
            finally:
                os.close(tree)
        finally:
            os.close(target)


def _find(root: int, path: str) -> int:
    try:
        return files.open_below(root, path, os.O_PATH)
    except OSError as exc:
        if exc.errno in _ABSENT:
            return -1
        raise


def _open_null(root: int) -> int:
    """The container's /dev/null, once it is proven to be that device: a swapped one would make every mask a
    writable bind of somebody's file (CVE-2025-31133).
    """
    null = files.open_below(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
    if files.is_device(null, 1, 3):
        return null
    os.close(null)
    raise OSError(errno.ENODEV, "not the null device", "/dev/null")


def _attach_clone(source: int, target: int) -> None:
    tree = mounts.clone_tree("", at=source)
    try:
        mounts.attach(tree, target)
    finally:
        os.close(tree)
