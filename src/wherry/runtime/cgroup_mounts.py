"""The container's view of its cgroup: what `mounts` entries of type cgroup become."""

from __future__ import annotations

import os

from wherry.linux import files, process
from wherry.linux import mounts as linux_mounts
from wherry.runtime import mounts
from wherry.runtime.cgroups import v1
from wherry.runtime.cgroups.driver import is_unified

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runtime.mounts import Mount
    from wherry.runtime.plan import Plan


def attach(plan: Plan, mount: Mount) -> None:
    """cgroup2 as a whole; or a tmpfs with one directory for each v1 hierarchy.

    In a cgroup namespace of our own a fresh mount shows our cgroup as its root; without one each hierarchy's
    directory of ours is bound.
    """
    own_namespace = bool(plan.namespaces.all & process.CLONE_NEWCGROUP)
    if is_unified():
        _attach_unified(plan, mount, own_namespace=own_namespace)
    else:
        _attach_hierarchies(plan, mount, own_namespace=own_namespace)


def _attach_unified(plan: Plan, mount: Mount, *, own_namespace: bool) -> None:
    tree = -1
    try:
        tree = linux_mounts.new_filesystem("cgroup2", [("source", "cgroup")], mount.add)
    except OSError:
        if own_namespace:
            # Not ours to mount (a user namespace without a cgroup namespace of its own): bind what we are in.
            raise
        tree = linux_mounts.clone_tree("/sys/fs/cgroup", recursive=True)
        linux_mounts.change_mount(tree, add=mount.add, propagation=linux_mounts.MS_PRIVATE, recursive=True)
    mount.tree = tree
    target = mounts.open_target(plan.root, mount)
    try:
        linux_mounts.attach(tree, target)
    finally:
        os.close(target)


def _attach_hierarchies(plan: Plan, mount: Mount, *, own_namespace: bool) -> None:
    flags = mount.add & ~linux_mounts.ATTR_RDONLY
    mount.tree = linux_mounts.new_filesystem("tmpfs", [("source", "tmpfs"), ("mode", "755")], flags)
    mount.late_read_only = bool(mount.add & linux_mounts.ATTR_RDONLY)
    target = mounts.open_target(plan.root, mount)
    try:
        linux_mounts.attach(mount.tree, target)
    finally:
        os.close(target)
    where = own_cgroups()
    points: dict[str, list[str]] = {}
    for controller, point in v1.mounted_hierarchies().items():
        points.setdefault(point, []).append(controller)
    for point, controllers in points.items():
        name = os.path.basename(point)
        os.mkdir(name, 0o755, dir_fd=mount.tree)
        for controller in controllers:
            short = controller.removeprefix("name=")
            if short != name:
                os.symlink(name, short, dir_fd=mount.tree)
        inner = files.open_below(mount.tree, name, os.O_PATH | os.O_DIRECTORY)
        try:
            if own_namespace:
                options: list[tuple[str, str | None]] = [("source", "cgroup"), *map(_as_option, controllers)]
                tree = linux_mounts.new_filesystem("cgroup", options, mount.add)
            else:
                tree = linux_mounts.clone_tree(point + where.get(controllers[0], "/"))
                linux_mounts.change_mount(tree, add=mount.add, propagation=linux_mounts.MS_PRIVATE)
            try:
                linux_mounts.attach(tree, inner)
            finally:
                os.close(tree)
        finally:
            os.close(inner)


def _as_option(controller: str) -> tuple[str, str | None]:
    """`memory` is a flag of the filesystem, `name=systemd` an option with a value."""
    name, equals, value = controller.partition("=")
    return name, value if equals else None


def own_cgroups() -> dict[str, str]:
    """The calling process's cgroup by controller, cgroups(7) /proc/PID/cgroup."""
    found: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                found[controller] = path
    return found
