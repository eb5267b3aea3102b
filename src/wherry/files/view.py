"""Going to where a container's files are, and leaving everything else behind.

Nothing is loaded, executed or looked up by name from here on but by descriptor, below the container's root
(CVE-2019-14271, CVE-2018-15664). Devices cannot be opened, whatever a container puts in a file's place.
"""

from __future__ import annotations

import os
from typing import Any, Final

from wherry.linux import capabilities, process
from wherry.linux import mounts as linux_mounts
from wherry.runtime import mounts, rootfs

_CAPABILITIES: Final = capabilities.bits(
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP"]
)
"""What copying files with their owners takes. Not: CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_SYS_PTRACE,
CAP_DAC_READ_SEARCH (open_by_handle_at), which lead out."""

_INERT: Final = linux_mounts.ATTR_NODEV | linux_mounts.ATTR_NOEXEC | linux_mounts.ATTR_NOSUID


class View:
    """Where jobs go. `root`: the root as the container sees it. `bare`: without what is mounted below it."""

    def __init__(self, root: int, bare: int, lower: list[int], *, is_full: bool) -> None:
        self.root = root
        self.bare = bare
        self.lower = lower
        self.is_full = is_full


def enter_running(namespace: int, *, read_only: bool) -> View:
    """See what the container sees, in a copy of its mount namespace: mounts that come later are not for us."""
    process.setns(namespace, process.CLONE_NEWNS)
    process.unshare(process.CLONE_NEWNS)
    os.close(namespace)
    return _entered(linux_mounts.ATTR_RDONLY if read_only else 0)


def enter_stopped(root: dict[str, Any], entries: list[dict[str, Any]], *, read_only: bool) -> View:
    """Mount a stopped container's root with its binds and volumes, in a mount namespace that has nothing else.

    `root` is a Rootfs value, `entries` are config.json's mounts. `read_only`: the root, not what is mounted below.
    Raises OSError, or StartFailed where one of them cannot be mounted.
    """
    process.unshare(process.CLONE_NEWNS)
    rootfs.isolate("private")
    parsed = [mounts.parse(entry) for entry in entries]
    for mount in parsed:
        mounts.open_source(mount, "/")
    tree = rootfs.assemble(root, {}, "/")
    rootfs.attach(tree)
    for mount in parsed:
        mounts.attach(tree, mount)
        mounts.close(mount)
    if read_only:
        linux_mounts.change_mount(tree, add=linux_mounts.ATTR_RDONLY)
    rootfs.enter(tree)
    os.close(tree)
    return _entered(0)


def enter_layer(tree: str, lower: list[str], *, is_full: bool) -> View:
    """Go to a writable layer's own directory, to compare it with the `lower` trees: read-only, all of them."""
    process.unshare(process.CLONE_NEWNS)
    clones = [_clone(path) for path in (tree, *lower)]
    os.fchdir(clones[0])
    os.chroot(".")
    return View(clones[0], clones[0], clones[1:], is_full=is_full)


def confine(*, trusted: bool = False) -> None:
    """Give up for good what a job does not need. `trusted`: it reads overlayfs's own attributes."""
    keep = _CAPABILITIES | (capabilities.SYS_ADMIN if trusted else 0)
    permitted, bounding = capabilities.limits()
    keep &= permitted
    capabilities.limit_bounding(keep, bounding)
    capabilities.set_ambient(0)
    capabilities.set_own(keep, keep, 0)
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)


def _entered(attributes: int) -> View:
    os.chdir("/")
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    linux_mounts.change_mount(
        root, add=_INERT | attributes, propagation=linux_mounts.MS_PRIVATE, recursive=True
    )
    return View(root, linux_mounts.clone_tree("/"), [], is_full=False)


def _clone(path: str) -> int:
    clone = linux_mounts.clone_tree(path)
    linux_mounts.change_mount(
        clone,
        add=_INERT | linux_mounts.ATTR_RDONLY | linux_mounts.ATTR_NOATIME,
        remove=linux_mounts.ATTR_ATIME,
        propagation=linux_mounts.MS_PRIVATE,
    )
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=clone)
    finally:
        os.close(clone)
