"""Run what every start runs, on things of no consequence, in the process that shims are forked from.

A forked process finds what is cached (cgroup hierarchies, our own capabilities) and its code specialised by the
interpreter already, and need not copy the pages that this writes to: a first start in a fresh fork takes as long as
a later one. Nothing is left: every mount made here is detached and gone with its descriptor.
"""

from __future__ import annotations

import os
import socket

from wherry.linux import capabilities, files, process
from wherry.linux import mounts as linux_mounts
from wherry.runtime import channel, devices, example, identity, masks, mounts, rootfs
from wherry.runtime.cgroups import v1, v2
from wherry.runtime.cgroups.driver import cgroup_for, is_unified
from wherry.runtime.plan import Plan

# The interpreter specialises a function's code after its eighth call.
_ROUNDS = 9


def rehearse() -> None:
    """Warm this process up. Needs root; call it once, before `gc.freeze`."""
    capabilities.limits()
    rootfs.takes_names()
    for _ in range(_ROUNDS):
        _rehearse_once()


def _rehearse_once() -> None:
    config = example.config()
    config["process"]["args"] = ["true"]
    config["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0"}
    plan = Plan(config, container_id="rehearsal", bundle="/", seccomp=None)
    plan.open_namespaces(config["linux"]["namespaces"], None)
    group = cgroup_for("/rehearsal")
    group.directories()
    if is_unified():
        v2.settings(plan.resources)
    else:
        v1.settings(plan.resources)
    plan.root = linux_mounts.new_filesystem("tmpfs", [("source", "rehearsal"), ("mode", "755")])
    try:
        for mount in plan.mounts:
            if mount.kind in ("tmpfs", "devpts", "proc"):
                mounts.make_detached(mount)
            os.close(mounts.open_target(plan.root, mount))
        os.close(files.make_file(plan.root, "/etc/passwd"))
        dev = mounts.find(plan.mounts, "/dev")
        if dev is not None:
            devices.fill(dev.tree, plan.devices)
            devices.make_all(plan.root, [])
        masks.mask(plan.root, plan.masked, -1)
        masks.make_read_only(plan.root, plan.read_only_paths)
        os.close(masks.make_nothing())
        identity.find_home(plan.root, 0)
        identity.look_up(plan.identity)
        _talk(plan.root)
    finally:
        plan.close()
    pid, pidfd = process.clone()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(pidfd)


def _talk(descriptor: int) -> None:
    ours, theirs = channel.pair()
    try:
        channel.send_trees(ours, [descriptor])
        for received in channel.expect(theirs, "trees"):
            os.close(received)
        channel.send(ours, {"go": True})
        channel.expect_go(theirs)
        theirs.shutdown(socket.SHUT_RDWR)
        channel.receive(ours)
    finally:
        ours.close()
        theirs.close()
