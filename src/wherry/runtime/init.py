"""The container's first process, and others that join it, between clone3 and execve.

Nothing here imports, looks up a codec or reads a file for the interpreter once the container's filesystem is entered:
everything is loaded when this module is. The process is not dumpable from its first line, so nothing inside the
container can look into it (CVE-2019-5736).
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import sys

from wherry.linux import files, process, terminals
from wherry.linux import mounts as linux_mounts
from wherry.runtime import cgroup_mounts, channel, devices, hooks, identity, masks, mounts, procfs, rootfs
from wherry.runtime.errors import INTERNAL, StartFailed, failed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from wherry.runtime.cgroups.driver import Cgroup
    from wherry.runtime.identity import Identity
    from wherry.runtime.plan import Plan

# Settled by clone3; and the cgroup namespace, which shows as its root the cgroup one is in when it is made.
_NOT_YET = process.CLONE_NEWPID | process.CLONE_NEWUSER | process.CLONE_NEWCGROUP


def run(
    plan: Plan,
    cgroup: Cgroup,
    control: socket.socket,
    stdio: tuple[int, int, int] | None,
    gate: socket.socket | None,
) -> NoReturn:
    """Be the first process: set the container up, report "created", wait for "start", execute. Never returns."""
    _guard(control, lambda: _run(plan, cgroup, control, stdio, gate))


def join(
    member: int,
    namespaces: int,
    who: Identity,
    container_id: str,
    cgroup: Cgroup | None,
    control: socket.socket,
    stdio: tuple[int, int, int] | None,
    preserved: int,
) -> NoReturn:
    """Be another process in the container of which `member` is a pidfd. Never returns."""
    _guard(control, lambda: _join(member, namespaces, who, container_id, cgroup, control, stdio, preserved))


def _run(
    plan: Plan,
    cgroup: Cgroup,
    control: socket.socket,
    stdio: tuple[int, int, int] | None,
    gate: socket.socket | None,
) -> None:
    who = plan.identity
    step = _Step()
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        os.setsid()
        if plan.namespaces.new & process.CLONE_NEWUSER:
            step.name = "user namespace"
            channel.expect_go(control)  # the mappings are written by the maker
            _become_root()
        step.name = "joining namespaces"
        _enter_namespaces(plan)
        os.umask(0)
        if plan.namespaces.new & process.CLONE_NEWNET:
            step.name = "bringing up the loopback interface"
            _raise_loopback()
        step.name = "setting host name"
        if plan.hostname:
            socket.sethostname(plan.hostname)
        if plan.domainname:
            process.set_domain_name(plan.domainname)
        step.name = "root filesystem"
        rootfs.isolate(plan.propagation)
        _make_filesystems(plan, step)
        step.name = "waiting for what the container is made of"
        _take_trees(plan, control)
        step.name = "joining cgroup"
        if cgroup.birthplace < 0:
            cgroup.join()
        process.unshare(plan.namespaces.new & process.CLONE_NEWCGROUP)
        step.name = "root filesystem"
        rootfs.attach(plan.root)
        bare = linux_mounts.clone_tree("", at=plan.root)
        if "prestart" in plan.hooks or "createRuntime" in plan.hooks:
            channel.send(control, {"at": "namespaces"})
            channel.expect_go(control)
        _mount_all(plan, step)
        step.name = "creating devices"
        owns_dev = not any(mount.destination == "/dev" and mount.kind == "bind" for mount in plan.mounts)
        if owns_dev:
            devices.make_all(plan.root, plan.devices)
            devices.make_links(plan.root)
        peer = master = -1
        if who.terminal:
            step.name = "creating console"
            master = devices.open_master(plan.root)
            peer = terminals.open_peer(master)
            if who.height or who.width:
                terminals.set_size(master, who.height, who.width)
            if owns_dev:
                devices.mount_console(plan.root, peer)
        step.name = "working directory"
        _make_directory(plan.root, who.cwd)
        if "createContainer" in plan.hooks:
            step.name = "createContainer hook"
            hooks.run(
                plan.hooks["createContainer"], hooks.state(plan, os.getpid(), "creating"), "createContainer"
            )
        step.name = "entering root"
        rootfs.enter(plan.root, pivot=plan.pivot)
        proc = -1
        if plan.sysctl or who.apparmor or who.selinux:
            proc = procfs.open_own()
        for key, value in plan.sysctl.items():
            step.name = "sysctl " + key.replace("/", ".")
            procfs.write_sysctl(proc, key, value)
        step.name = "read-only paths"
        masks.make_read_only(plan.root, plan.read_only_paths)
        step.name = "masked paths"
        masks.mask(plan.root, plan.masked)
        step.name = "finishing root"
        for mount in plan.mounts:
            if mount.late_read_only:
                linux_mounts.change_mount(mount.tree, add=linux_mounts.ATTR_RDONLY)
        rootfs.finish(plan.root, propagation=plan.propagation, read_only=plan.read_only)
        step.name = "session keyring"
        identity.join_keyring(plan.container_id, first=True)
        step.name = "standard streams"
        _take_streams(peer, stdio)
        process.close_on_exec_from(3 + plan.preserved)
        step.name = "process"
        identity.set_limits(who)
        if proc >= 0:
            identity.write_labels(who, proc)
        identity.drop_privileges(who, plan.root)
        path = identity.look_up(who)
    except OSError as exc:
        raise failed(step.name, exc) from exc
    identity.reset_signals()
    plan.close()
    channel.send(
        control, {"at": "created", "console": master >= 0}, [bare, master] if master >= 0 else [bare]
    )
    os.close(bare)
    if master >= 0:
        os.close(master)
    starter = _wait_for_start(control, gate)
    _guard(starter, lambda: _start(plan, who, path))


def _start(plan: Plan, who: Identity, path: str) -> None:
    if "startContainer" in plan.hooks:
        hooks.run(plan.hooks["startContainer"], hooks.state(plan, os.getpid(), "created"), "startContainer")
    identity.execute(who, path)


def _join(
    member: int,
    namespaces: int,
    who: Identity,
    container_id: str,
    cgroup: Cgroup | None,
    control: socket.socket,
    stdio: tuple[int, int, int] | None,
    preserved: int,
) -> None:
    step = _Step()
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        os.setsid()
        step.name = "joining cgroup"
        if cgroup is not None and cgroup.birthplace < 0:
            cgroup.join()
        step.name = "joining namespaces"
        if who.oom_score_adj is not None:
            _write_oom_score(who.oom_score_adj)
        process.setns(member, namespaces & ~process.CLONE_NEWPID)
        if namespaces & process.CLONE_NEWUSER:
            _become_root()
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        peer = master = -1
        if who.terminal:
            step.name = "creating console"
            master = devices.open_master(root)
            peer = terminals.open_peer(master)
            if who.height or who.width:
                terminals.set_size(master, who.height, who.width)
        step.name = "session keyring"
        identity.join_keyring(container_id, first=False)
        step.name = "standard streams"
        _take_streams(peer, stdio)
        process.close_on_exec_from(3 + preserved)
        step.name = "process"
        identity.set_limits(who)
        if who.apparmor or who.selinux:
            identity.write_labels(who, procfs.open_own())
        identity.drop_privileges(who, root)
        path = identity.look_up(who)
    except OSError as exc:
        raise failed(step.name, exc) from exc
    identity.reset_signals()
    if master >= 0:
        channel.send(control, {"at": "console"}, [master])
    identity.execute(who, path)


class _Step:
    """Which step is being done, for the text of its failure."""

    __slots__ = ("name",)

    def __init__(self) -> None:
        self.name = "starting"


def _guard(control: socket.socket, body: Callable[[], None]) -> NoReturn:
    """Run `body`, which ends in execve; anything else is reported on `control`, and the process ends."""
    try:
        try:
            body()
            failure = StartFailed(INTERNAL, "unable to start container process: execve returned")
        except StartFailed as exc:
            failure = exc
        except BaseException as exc:
            failure = StartFailed(INTERNAL, f"unable to start container process: {type(exc).__name__}: {exc}")
        channel.send_failure(control, failure)
    finally:
        os._exit(1)


def _enter_namespaces(plan: Plan) -> None:
    """Join what is given by path, then make what is new; the pid namespace was settled by clone3."""
    for flag, descriptor in plan.namespaces.joined.items():
        if flag != process.CLONE_NEWPID:
            process.setns(descriptor, flag)
    if plan.namespaces.joined.get(process.CLONE_NEWUSER) is not None:
        _become_root()
    process.unshare(plan.namespaces.new & ~_NOT_YET)


def _become_root() -> None:
    """Be user 0 of the user namespace we are in now."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.prctl(process.PR_SET_DUMPABLE, 0)


def _make_filesystems(plan: Plan, step: _Step) -> None:
    """Make the new filesystems, detached, while the maker still assembles the root and clones the binds."""
    for mount in plan.mounts:
        if mount.kind not in ("bind", "cgroup"):
            step.name = f"mounting {mount.source!r} to rootfs at {mount.destination!r}"
            mounts.make_detached(mount)


def _take_trees(plan: Plan, control: socket.socket) -> None:
    """Receive the root and the binds from the maker."""
    trees: list[int] = []
    wanted = plan.count_wanted_trees()
    while len(trees) < wanted:
        trees += channel.expect(control, "trees")
    plan.take_trees(trees)


def _mount_all(plan: Plan, step: _Step) -> None:
    for mount in plan.mounts:
        step.name = f"mounting {mount.source!r} to rootfs at {mount.destination!r}"
        if mount.kind == "cgroup":
            cgroup_mounts.attach(plan, mount)
        else:
            mounts.attach(plan.root, mount)


def _make_directory(root: int, path: str) -> None:
    """The working directory is made when it is missing; where something else is, chdir says so later."""
    try:
        os.close(files.make_directory(root, path))
    except (NotADirectoryError, PermissionError):
        pass


def _take_streams(peer: int, stdio: tuple[int, int, int] | None) -> None:
    """0, 1 and 2: the pty, or the given ones, whose numbers may overlap with 0-2."""
    if peer >= 0:
        terminals.make_controlling(peer)
        for number in range(3):
            os.dup2(peer, number)
        return
    if stdio is None:
        return
    safe = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3) for descriptor in stdio]
    for number, descriptor in enumerate(safe):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _wait_for_start(control: socket.socket, gate: socket.socket | None) -> socket.socket:
    """The channel that said "start": the maker's own, or one that connected to the gate."""
    if gate is None:
        channel.expect_go(control)
        return control
    control.close()
    while True:
        starter, _ = gate.accept()
        message, _ = channel.receive(starter)
        if message is not None and message.get("go"):
            gate.close()
            return starter
        starter.close()


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(handle, _SIOCSIFFLAGS, request)


def _write_oom_score(value: int) -> None:
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, str(value).encode())
    except PermissionError as exc:
        raise StartFailed(
            INTERNAL,
            f"unable to start container process: error during container init: write oom_score_adj {value}:"
            " permission denied",
        ) from exc
    finally:
        os.close(descriptor)


_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
