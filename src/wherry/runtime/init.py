"""The container's first process, and others that join it, between clone3 and execve.

Nothing here imports, looks up a codec or reads a file for the interpreter once the container's filesystem is
entered: everything is loaded when this module is. The process is not dumpable from its first line, so nothing
inside the container can look into it (CVE-2019-5736).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from wherry.linux import files, process, terminals
from wherry.linux import mounts as linux_mounts
from wherry.runtime import cgroup_mounts, channel, devices, hooks, identity, masks, mounts, procfs, rootfs
from wherry.runtime.errors import INTERNAL, StartFailed, failed

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
    """Be the first process: set the container up, report "created", wait for "start", execute."""
    first = _First(plan, cgroup, control, stdio)
    _guard(control, lambda: _run(first, gate))


def _run(first: _First, gate: socket.socket | None) -> None:
    """The order matters: runtime-spec, "Lifecycle", and the comments on each step."""
    try:
        first.turn_away_from_the_host()
        first.enter_namespaces()
        first.make_filesystems()
        first.take_what_was_assembled()
        first.mount_all()
        first.make_devices()
        first.open_terminal()
        first.enter_root()
        first.hide_paths()
        first.take_streams()
        path = first.become_the_user()
    except OSError as exc:
        raise failed(first.step, exc) from exc
    first.report_created()
    starter = _wait_for_start(first.control, gate)
    _guard(starter, lambda: _start(first.plan, path))


def _start(plan: Plan, path: str) -> None:
    if "startContainer" in plan.hooks:
        hooks.run(plan.hooks["startContainer"], hooks.state(plan, os.getpid(), "created"), "startContainer")
    identity.execute(plan.identity, path)


class _First:
    """The first process's way from clone3 to "created". `step` says what is being done, for the text of a
    failure.
    """

    __slots__ = (
        "bare",
        "cgroup",
        "control",
        "dev",
        "is_dev_filled",
        "is_in_cgroup",
        "master",
        "nothing",
        "peer",
        "plan",
        "proc",
        "stdio",
        "step",
    )

    def __init__(
        self, plan: Plan, cgroup: Cgroup, control: socket.socket, stdio: tuple[int, int, int] | None
    ) -> None:
        self.plan = plan
        self.cgroup = cgroup
        self.control = control
        self.stdio = stdio
        self.step = "starting"
        self.bare = self.master = self.peer = self.proc = self.nothing = -1
        self.dev = mounts.find(plan.mounts, "/dev")
        self.is_dev_filled = False
        self.is_in_cgroup = False

    def turn_away_from_the_host(self) -> None:
        """Be invisible to whoever we will share namespaces with (CVE-2019-5736), and lead a session."""
        process.prctl(process.PR_SET_DUMPABLE, 0)
        os.setsid()
        os.umask(0)
        if self.plan.namespaces.new & process.CLONE_NEWUSER:
            self.step = "user namespace"
            channel.expect_go(self.control)  # the mappings are written by the maker
            _become_root()

    def enter_namespaces(self) -> None:
        """Join what is given by path, then make what is new; the pid namespace was settled by clone3."""
        plan = self.plan
        self.step = "joining namespaces"
        for flag, descriptor in plan.namespaces.joined.items():
            if flag != process.CLONE_NEWPID:
                process.setns(descriptor, flag)
        if process.CLONE_NEWUSER in plan.namespaces.joined:
            _become_root()
        process.unshare(plan.namespaces.new & ~_NOT_YET)
        rootfs.isolate(plan.propagation)
        if plan.namespaces.new & process.CLONE_NEWNET:
            self.step = "bringing up the loopback interface"
            _raise_loopback()
        self.step = "setting host name"
        if plan.hostname:
            socket.sethostname(plan.hostname)
        if plan.domainname:
            process.set_domain_name(plan.domainname)
        if plan.keyring:
            self.step = "session keyring"
            identity.join_keyring(plan.container_id, first=True)

    def make_filesystems(self) -> None:
        """Make the new filesystems, detached, and fill /dev, while the maker assembles the root and the
        binds.
        """
        for mount in self.plan.mounts:
            if mount.kind not in ("bind", "cgroup"):
                self.step = f"mounting {mount.source!r} to rootfs at {mount.destination!r}"
                mounts.make_detached(mount)
        if self.plan.masked:
            self.nothing = masks.make_nothing()
        if self.dev is not None and self.dev.kind == "tmpfs" and not self.plan.binds_devices:
            self.step = "creating devices"
            devices.fill(self.dev.tree, self.plan.devices)
            self.is_dev_filled = True

    def take_what_was_assembled(self) -> None:
        """Receive the root and the binds; be in the cgroup, then in its namespace, which shows it as the
        root.
        """
        self.step = "waiting for what the container is made of"
        trees: list[int] = []
        wanted = self.plan.count_wanted_trees()
        while len(trees) < wanted:
            trees += channel.expect(self.control, "trees")
        self.plan.take_trees(trees)

    def enter_cgroup(self) -> None:
        """Be in the cgroup, then in a namespace that shows it as the root. As late as can be: the maker makes it
        while we mount.
        """
        if self.is_in_cgroup:
            return
        self.is_in_cgroup = True
        self.step = "joining cgroup"
        channel.expect(self.control, "cgroup")
        if self.cgroup.birthplace < 0:
            self.cgroup.join()
        process.unshare(self.plan.namespaces.new & process.CLONE_NEWCGROUP)

    def mount_all(self) -> None:
        """The root, and on it the mounts in their order."""
        plan = self.plan
        self.step = "root filesystem"
        rootfs.attach(plan.root)
        self.bare = linux_mounts.clone_tree("", at=plan.root)
        if "prestart" in plan.hooks or "createRuntime" in plan.hooks:
            self.enter_cgroup()
            channel.send(self.control, {"at": "namespaces"})
            channel.expect_go(self.control)
        for mount in plan.mounts:
            if mount.kind == "cgroup":
                self.enter_cgroup()
            self.step = f"mounting {mount.source!r} to rootfs at {mount.destination!r}"
            if mount.kind == "cgroup":
                cgroup_mounts.attach(plan, mount, self.cgroup)
            else:
                mounts.attach(plan.root, mount)
        self.enter_cgroup()

    def make_devices(self) -> None:
        """What is not in our own /dev yet. A /dev that was bound from outside is left as it is."""
        if self.dev is not None and self.dev.kind == "bind":
            return
        self.step = "creating devices"
        devices.make_all(self.plan.root, self.plan.devices)
        if not self.is_dev_filled:
            devices.make_links(self.plan.root)

    def open_terminal(self) -> None:
        who = self.plan.identity
        if not who.terminal:
            return
        self.step = "creating console"
        self.master, self.peer = _open_terminal(self.plan.root, who)
        if self.dev is None or self.dev.kind != "bind":
            devices.mount_console(self.plan.root, self.peer)

    def enter_root(self) -> None:
        plan = self.plan
        self.step = "working directory"
        _make_directory(plan.root, plan.identity.cwd)
        if "createContainer" in plan.hooks:
            self.step = "createContainer hook"
            value = hooks.state(plan, os.getpid(), "creating")
            hooks.run(plan.hooks["createContainer"], value, "createContainer")
        self.step = "entering root"
        rootfs.enter(plan.root, pivot=plan.pivot)

    def hide_paths(self) -> None:
        """What is written to procfs, then what must not be written or read any more, then the read-only root."""
        plan = self.plan
        if plan.sysctl or plan.identity.apparmor or plan.identity.selinux:
            self.proc = procfs.open_own()
        for key, value in plan.sysctl.items():
            self.step = "sysctl " + key.replace("/", ".")
            procfs.write_sysctl(self.proc, key, value)
        self.step = "read-only paths"
        masks.make_read_only(plan.root, plan.read_only_paths)
        self.step = "masked paths"
        masks.mask(plan.root, plan.masked, self.nothing)
        self.step = "finishing root"
        for mount in plan.mounts:
            if mount.late_read_only:
                linux_mounts.change_mount(mount.tree, add=linux_mounts.ATTR_RDONLY)
        rootfs.finish(plan.root, propagation=plan.propagation, read_only=plan.read_only)

    def take_streams(self) -> None:
        self.step = "standard streams"
        _take_streams(self.peer, self.stdio)
        process.close_on_exec_from(3 + self.plan.preserved)

    def become_the_user(self) -> str:
        """Limits, labels, user, capabilities, directory; the path of the program to execute."""
        self.step = "process"
        who = self.plan.identity
        identity.set_limits(who)
        if self.proc >= 0:
            identity.write_labels(who, self.proc)
        identity.drop_privileges(who, self.plan.root)
        path = identity.look_up(who)
        process.reset_signals()
        return path

    def report_created(self) -> None:
        self.plan.close()
        descriptors = [self.bare, self.master] if self.master >= 0 else [self.bare]
        channel.send(self.control, {"at": "created"}, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def join(
    member: int,
    namespaces: int,
    who: Identity,
    container_id: str,
    cgroup: Cgroup,
    control: socket.socket,
    stdio: tuple[int, int, int] | None,
    preserved: int,
    *,
    waits: bool,
) -> NoReturn:
    """Be another process in the container of which `member` is a pidfd; with `waits` execute only when told to. Never
    returns.
    """
    _guard(
        control,
        lambda: _join(member, namespaces, who, container_id, cgroup, control, stdio, preserved, waits=waits),
    )


def _join(
    member: int,
    namespaces: int,
    who: Identity,
    container_id: str,
    cgroup: Cgroup,
    control: socket.socket,
    stdio: tuple[int, int, int] | None,
    preserved: int,
    *,
    waits: bool,
) -> None:
    step = "starting"
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        os.setsid()
        step = "joining cgroup"
        if cgroup.birthplace < 0:
            cgroup.join()
        step = "joining namespaces"
        if who.oom_score_adj is not None:
            _write_oom_score(who.oom_score_adj)
        process.setns(member, namespaces & ~process.CLONE_NEWPID)
        if namespaces & process.CLONE_NEWUSER:
            _become_root()
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        peer = master = -1
        if who.terminal:
            step = "creating console"
            master, peer = _open_terminal(root, who)
        step = "session keyring"
        identity.join_keyring(container_id, first=False)
        step = "standard streams"
        _take_streams(peer, stdio)
        process.close_on_exec_from(3 + preserved)
        step = "process"
        identity.set_limits(who)
        if who.apparmor or who.selinux:
            identity.write_labels(who, procfs.open_own())
        identity.drop_privileges(who, root)
        path = identity.look_up(who)
    except OSError as exc:
        raise failed(step, exc) from exc
    process.reset_signals()
    if master >= 0:
        channel.send(control, {"at": "console"}, [master])
    if waits:
        _wait_for_go(control.fileno())
    identity.execute(who, path)


def _wait_for_go(control: int) -> None:
    """Without the descriptors that were cloned with us: pipes and connections would not end while we hold them too.
    By read alone, which every seccomp filter lets through."""
    os.closerange(3, control)
    os.closerange(control + 1, 1 << 20)
    if not os.read(control, 4096):
        os._exit(1)


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


def _become_root() -> None:
    """Be user 0 of the user namespace we are in now."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    process.prctl(process.PR_SET_DUMPABLE, 0)


def _open_terminal(root: int, who: Identity) -> tuple[int, int]:
    """A pty of the container's own: master and peer."""
    master = devices.open_master(root)
    peer = terminals.open_peer(master)
    if who.height or who.width:
        terminals.set_size(master, who.height, who.width)
    return master, peer


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
