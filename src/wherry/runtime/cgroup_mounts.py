"""The container's view of its cgroup: what `mounts` entries of type cgroup become."""

from __future__ import annotations

import os

from wherry.linux import mounts as linux_mounts
from wherry.linux import process
from wherry.runtime import mounts
from wherry.runtime.cgroups import v1
from wherry.runtime.cgroups.driver import is_unified
from wherry.runtime.cgroups.tree import ROOT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.runtime.cgroups.driver import Cgroup
    from wherry.runtime.mounts import Mount
    from wherry.runtime.plan import Plan


def attach(plan: Plan, mount: Mount, cgroup: Cgroup) -> None:
    """cgroup2 as a whole; or a tmpfs with one directory for each v1 hierarchy.

    In a cgroup namespace of our own a fresh mount shows our cgroup as its root; without one each hierarchy's
    directory of ours is bound.
    """
    own_namespace = bool(plan.namespaces.all & process.CLONE_NEWCGROUP)
    if is_unified():
        _attach_unified(plan, mount, own_namespace=own_namespace)
    else:
        _attach_hierarchies(plan, mount, cgroup.directories(), own_namespace=own_namespace)


def _attach_unified(plan: Plan, mount: Mount, *, own_namespace: bool) -> None:
    try:
        mount.tree = linux_mounts.new_filesystem("cgroup2", [("source", "cgroup")], mount.add)
    except OSError:
        if own_namespace:
            raise
        # Not ours to mount (a user namespace without a cgroup namespace of its own): bind the host's.
        mount.tree = linux_mounts.clone_tree(ROOT, recursive=True)
        linux_mounts.change_mount(
            mount.tree, add=mount.add, propagation=linux_mounts.MS_PRIVATE, recursive=True
        )
    _attach_at_target(plan, mount)


def _attach_hierarchies(plan: Plan, mount: Mount, ours: dict[str, str], *, own_namespace: bool) -> None:
    """`ours`: the directory of our cgroup by controller. Hierarchies in which we have none are left out."""
    mount.tree = linux_mounts.new_filesystem(
        "tmpfs", [("source", "tmpfs"), ("mode", "755")], mount.add & ~linux_mounts.ATTR_RDONLY
    )
    mount.late_read_only = bool(mount.add & linux_mounts.ATTR_RDONLY)
    controllers: dict[str, list[str]] = {}
    for controller, point in v1.mounted_hierarchies().items():
        if controller in ours:
            controllers.setdefault(point, []).append(controller)
    for point, names in controllers.items():
        name = os.path.basename(point)
        os.mkdir(name, 0o755, dir_fd=mount.tree)
        for each in names:
            short = each.removeprefix("name=")
            if short != name:
                os.symlink(name, short, dir_fd=mount.tree)
    _attach_at_target(plan, mount)
    for point, names in controllers.items():
        if own_namespace:
            options = [("source", "cgroup"), *map(_as_option, names)]
            tree = linux_mounts.new_filesystem("cgroup", options, mount.add)
        else:
            tree = linux_mounts.clone_tree(ours[names[0]])
            linux_mounts.change_mount(tree, add=mount.add, propagation=linux_mounts.MS_PRIVATE)
        # By name: the filesystem is new and ours alone, so nothing else can be there.
        linux_mounts.attach(tree, os.path.basename(point), at=mount.tree)
        os.close(tree)


def _attach_at_target(plan: Plan, mount: Mount) -> None:
    target = mounts.open_target(plan.root, mount)
    try:
        linux_mounts.attach(mount.tree, target)
    finally:
        os.close(target)


def _as_option(controller: str) -> tuple[str, str | None]:
    """`memory` is a flag of the filesystem, `name=systemd` an option with a value."""
    name, equals, value = controller.partition("=")
    return name, value if equals else None
