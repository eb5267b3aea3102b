"""The root filesystem: assembled detached by the maker, attached and entered by the container's first
process.
"""

from __future__ import annotations

import os

from wherry.linux import mounts
from wherry.runtime import values
from wherry.runtime.errors import invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PROPAGATION = {
    "": mounts.MS_SLAVE | mounts.MS_REC,
    "private": mounts.MS_PRIVATE,
    "rprivate": mounts.MS_PRIVATE | mounts.MS_REC,
    "slave": mounts.MS_SLAVE,
    "rslave": mounts.MS_SLAVE | mounts.MS_REC,
    "shared": mounts.MS_SHARED,
    "rshared": mounts.MS_SHARED | mounts.MS_REC,
    "unbindable": mounts.MS_UNBINDABLE,
    "runbindable": mounts.MS_UNBINDABLE | mounts.MS_REC,
}


def assemble(rootfs: dict[str, Any] | None, spec: dict[str, Any], bundle: str) -> int:
    """The detached mount that becomes the container's root: a Rootfs value, or root.path of the bundle."""
    if rootfs is None:
        return _bind(values.text(values.child(spec, "root"), "path"), bundle, recursive=True)
    kind = values.text(rootfs, "type")
    if kind == "bind":
        return _bind(values.text(rootfs, "source"), bundle, recursive=False)
    if kind == "overlay":
        return overlay(rootfs)
    raise invalid(f"unknown root filesystem type {kind!r}: want overlay or bind")


def isolate(propagation: str) -> None:
    """Cut the way from our new mount namespace back to the host's: nothing that follows may show there."""
    if propagation not in _PROPAGATION:
        raise invalid(f"rootfsPropagation {propagation!r} does not exist")
    mounts.set_propagation("/", mounts.MS_SLAVE | mounts.MS_REC)


def attach(tree: int) -> None:
    """Attach the root on top of the old one, where nobody can have put anything else."""
    mounts.attach(tree, "/")


def enter(tree: int, *, pivot: bool = True) -> None:
    """Make the attached `tree` our root and drop the old one with everything that is mounted in it."""
    os.fchdir(tree)
    if not pivot:
        os.chroot(".")
        os.chdir("/")
        return
    # "." twice: the old root ends up mounted on top of the new one, and is taken off again (pivot_root(2)).
    mounts.pivot_root(".", ".")
    mounts.unmount(".", mounts.MNT_DETACH)
    os.chdir("/")


def finish(tree: int, *, propagation: str, read_only: bool) -> None:
    """The last touches on the entered root: propagation as asked for, and read-only."""
    if propagation:
        flags = _PROPAGATION[propagation]
        mounts.change_mount(tree, propagation=flags & ~mounts.MS_REC, recursive=bool(flags & mounts.MS_REC))
    if read_only:
        mounts.change_mount(tree, add=mounts.ATTR_RDONLY)


def _bind(path: str, bundle: str, *, recursive: bool) -> int:
    if not path:
        raise invalid("root.path must be set")
    full = path if path.startswith("/") else os.path.join(bundle, path)
    try:
        tree = mounts.clone_tree(full, recursive=recursive)
    except FileNotFoundError as exc:
        raise invalid(f"invalid rootfs: stat {full}: no such file or directory") from exc
    try:
        # Before anything is mounted below: a clone of a shared mount would carry it to the host.
        mounts.change_mount(tree, propagation=mounts.MS_SLAVE, recursive=True)
    except BaseException:
        os.close(tree)
        raise
    return tree


def overlay(rootfs: dict[str, Any], attributes: int = 0) -> int:
    """A detached overlay: `lower` (top first), and if it can be written to `upper` and `work`."""
    lower = values.texts(rootfs, "lower")
    upper, work = values.text(rootfs, "upper"), values.text(rootfs, "work")
    options = values.texts(rootfs, "options")
    context = mounts.open_filesystem("overlay")
    try:
        mounts.set_option(context, "source", "overlay")
        for option in options:
            key, equals, value = option.partition("=")
            mounts.set_option(context, key, value if equals else None)
        if not takes_names():
            return _mount_by_number(context, lower, upper, work, attributes)
        for path in lower:
            mounts.set_option(context, "lowerdir+", path)  # top layer first; any name, any number of them
        if upper:
            mounts.set_option(context, "upperdir", _escape(upper))
            mounts.set_option(context, "workdir", _escape(work))
        mounts.create_filesystem(context, "overlay")
        return mounts.mount_filesystem(context, attributes)
    finally:
        os.close(context)


def takes_names() -> bool:
    """Whether overlay has the option `lowerdir+` (Linux 6.7); found once.

    One that takes its options the old way (before 6.5) collects any option and says nothing until it is mounted, so
    it is told by what it does with nonsense.
    """
    global _takes_names
    if _takes_names is None:
        context = mounts.open_filesystem("overlay")
        try:
            _takes_names = not _accepts(context, "no-such-option") and _accepts(context, "lowerdir+")
        finally:
            os.close(context)
    return _takes_names


def _accepts(context: int, option: str) -> bool:
    try:
        mounts.set_option(context, option, "/")
    except OSError:
        return False
    return True


_takes_names: bool | None = None


def _mount_by_number(context: int, lower: list[str], upper: str, work: str, attributes: int) -> int:
    """The old way: all layers in one option, of which fsconfig(2) takes 255 bytes, without commas or colons.

    So each directory is named by its descriptor's number, from within /proc/self/fd.
    """
    opened: list[int] = []
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in (*lower, *((upper, work) if upper else ())):
            opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        names = [str(descriptor) for descriptor in opened]
        os.chdir("/proc/self/fd")
        try:
            mounts.set_option(context, "lowerdir", ":".join(names[: len(lower)]))
            if upper:
                mounts.set_option(context, "upperdir", names[-2])
                mounts.set_option(context, "workdir", names[-1])
            mounts.create_filesystem(context, "overlay")
            return mounts.mount_filesystem(context, attributes)
        finally:
            os.fchdir(before)
    finally:
        for descriptor in (*opened, before):
            os.close(descriptor)


def _escape(path: str) -> str:
    """overlay takes a backslash before a character that it would otherwise interpret."""
    return path.replace("\\", "\\\\")
