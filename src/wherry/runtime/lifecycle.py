"""Containers: create, start, exec, signal, destroy. The API of this package.

The caller must have one thread only, and is the parent of every process made here: it reaps them.
"""

from __future__ import annotations

import os
import signal

from wherry.linux import process, terminals
from wherry.runtime import channel, hooks, init, values
from wherry.runtime import rootfs as root_filesystem
from wherry.runtime.cgroups.driver import cgroup_for
from wherry.runtime.errors import INTERNAL, StartFailed, go_text
from wherry.runtime.identity import Identity
from wherry.runtime.plan import Plan
from wherry.runtime.seccomp import compile_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from wherry.runtime.cgroups.driver import Cgroup

__all__ = ["Container", "Prepared", "Process", "StartFailed", "create"]


class Process:
    """A process in a container, child of the caller: `pid` in the caller's pid namespace; `console` its pty's
    master or -1. The descriptors belong to whoever holds this; `close` gives them back.
    """

    __slots__ = ("console", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, console: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = console

    def close(self) -> None:
        for descriptor in (self.pidfd, self.console):
            if descriptor >= 0:
                os.close(descriptor)
        self.pidfd = self.console = -1


class Prepared:
    """A process on its way into a container, which does all but execve and then waits for `go`."""

    __slots__ = ("_control", "_is_terminal", "_pidfd", "_waits", "pid")

    def __init__(
        self, pid: int, pidfd: int, control: socket.socket, *, is_terminal: bool, waits: bool
    ) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._control = control
        self._is_terminal = is_terminal
        self._waits = waits

    def go(self, *, height: int = 0, width: int = 0) -> Process:
        """Returns once its execve succeeded, in a terminal of this size if one is given.

        Raises StartFailed, for what went wrong before too; then nothing is left to reap.
        """
        console = -1
        try:
            if self._is_terminal:
                console = channel.expect(self._control, "console")[0]
                if height or width:
                    terminals.set_size(console, height, width)
            if self._waits:
                channel.send(self._control, {"go": True})
            await_execve(self._control)
        except BaseException:
            _kill_and_reap(self.pid, self._pidfd)
            if console >= 0:
                os.close(console)
            raise
        finally:
            self._control.close()
        return Process(self.pid, self._pidfd, console)

    def discard(self) -> None:
        """It is wanted no more. The caller's reaper collects it: a frozen one ends only when it thaws."""
        self._control.close()
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self._pidfd)


class Container:
    """A container made by `create`. `netns` and `rootfs` are descriptors, or -1; `rootfs` (O_PATH) is the
    bare root filesystem without the other mounts.
    """

    __slots__ = ("_control", "cgroup", "id", "init", "namespaces", "netns", "rootfs", "seccomp")

    def __init__(
        self,
        container_id: str,
        first: Process,
        cgroup: Cgroup,
        *,
        control: socket.socket | None,
        namespaces: int,
        seccomp: bytes | None,
        netns: int = -1,
        rootfs: int = -1,
    ) -> None:
        self.id = container_id
        self.init = first
        self.cgroup = cgroup
        self.netns = netns
        self.rootfs = rootfs
        self._control = control
        self.namespaces = namespaces
        self.seccomp = seccomp

    def start(self) -> None:
        """Release the first process; returns once its execve succeeded."""
        control = self._control
        if control is None:
            raise StartFailed(INTERNAL, "cannot start a container that is not in the created state")
        self._control = None
        try:
            channel.send(control, {"go": True})
            await_execve(control)
        finally:
            control.close()

    def exec(
        self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None, preserved: int = 0
    ) -> Process:
        """Start another process in the container; returns once its execve succeeded.

        `process_object` is a `process` of config.json. Raises StartFailed; then nothing is left to reap.
        """
        return self._join(process_object, stdio, preserved, waits=False).go()

    def prepare(self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None) -> Prepared:
        """The same up to execve. Raises StartFailed for what is wrong with `process_object` itself."""
        return self._join(process_object, stdio, 0, waits=True)

    def _join(
        self,
        process_object: dict[str, Any],
        stdio: tuple[int, int, int] | None,
        preserved: int,
        *,
        waits: bool,
    ) -> Prepared:
        try:
            who = Identity(process_object, self.seccomp)
        except StartFailed as exc:
            raise StartFailed(exc.kind, f"unable to start container process: {exc.message}") from exc
        ours, theirs = channel.pair()
        try:
            pid, pidfd = self._clone_into()
            if pid == 0:
                ours.close()
                init.join(
                    self.init.pidfd,
                    self.namespaces,
                    who,
                    self.id,
                    self.cgroup,
                    theirs,
                    stdio,
                    preserved,
                    waits=waits,
                )
            return Prepared(pid, pidfd, ours, is_terminal=who.terminal, waits=waits)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def signal(self, number: int, *, everything: bool = False) -> None:
        """Signal the first process, or every process of the container. One that is gone is no error."""
        if self.init.pidfd < 0:
            return  # destroyed
        if not everything:
            try:
                signal.pidfd_send_signal(self.init.pidfd, number)
            except ProcessLookupError:
                pass
        elif number == signal.SIGKILL:
            self.cgroup.kill()
        else:
            for pid in self.cgroup.pids():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass

    def pids(self) -> list[int]:
        return self.cgroup.pids()

    def pause(self) -> None:
        self.cgroup.freeze()

    def resume(self) -> None:
        self.cgroup.thaw()

    def destroy(self) -> None:
        """Kill what is left, remove the cgroup, close every descriptor. May be called again."""
        if self._control is not None:
            self._control.close()
            self._control = None
        try:
            self.cgroup.kill()
            self.cgroup.remove()
        finally:
            self.init.close()
            for descriptor in (self.netns, self.rootfs):
                if descriptor >= 0:
                    os.close(descriptor)
            self.netns = self.rootfs = -1

    def _clone_into(self) -> tuple[int, int]:
        if not self.namespaces & process.CLONE_NEWPID:
            return process.clone(cgroup=self.cgroup.birthplace)
        try:
            return _clone_in(self.init.pidfd, 0, self.cgroup)
        except OSError as exc:
            raise StartFailed(
                INTERNAL, f"cannot exec in a container that is not running: {go_text(exc)}"
            ) from exc


def create(
    spec: dict[str, Any],
    *,
    container_id: str,
    rootfs: dict[str, Any] | None,
    stdio: tuple[int, int, int] | None,
    netns: int | None,
    seccomp: bytes | None,
    cgroup: str,
    bundle: str = "/",
    gate: socket.socket | None = None,
    preserved: int = 0,
    pivot: bool = True,
    keyring: bool = True,
) -> Container:
    """Make the container that `spec` (a parsed config.json) describes, up to OCI's "created".

    `rootfs` is a Rootfs value, or None for root.path of `spec`; `stdio` the process's descriptors 0-2 without
    a terminal; `netns` a network namespace to join; `seccomp` a compiled filter, in place of linux.seccomp;
    `cgroup` a path such as `/wherry/ID`. `gate`: a listening socket on which "start" comes, for a maker that
    does not stay. Raises StartFailed, and then nothing is left: no process, no cgroup, no descriptor.
    """
    if seccomp is None:
        profile = values.child(values.child(spec, "linux"), "seccomp")
        seccomp = compile_profile(profile) if profile else None
    plan = Plan(spec, container_id=container_id, bundle=bundle, seccomp=seccomp)
    plan.pivot = pivot
    plan.keyring = keyring
    plan.preserved = preserved
    group = cgroup_for(cgroup)
    try:
        plan.open_namespaces(values.children(values.child(spec, "linux"), "namespaces"), netns)
        return _make(plan, group, lambda: root_filesystem.assemble(rootfs, spec, bundle), stdio, gate)
    except OSError as exc:
        subject = f" {os.fsdecode(exc.filename)}" if exc.filename else ""
        raise StartFailed(
            INTERNAL, f"unable to start container process: {exc.strerror or exc}{subject}"
        ) from exc
    finally:
        plan.close()


def await_execve(control: socket.socket) -> None:
    """Return when the other side's execve has closed the channel; raise what it reports instead."""
    message, _ = channel.receive(control)
    if message is not None:
        raise channel.failure_in(message)


def _make(
    plan: Plan,
    group: Cgroup,
    assemble: Callable[[], int],
    stdio: tuple[int, int, int] | None,
    gate: socket.socket | None,
) -> Container:
    """Process, cgroup, root, binds; then wait until the process says that the container is created.

    The process makes its namespaces and new filesystems while we assemble the rest. A cgroup that it is born
    in must be there first.
    """
    pid = pidfd = -1
    received: list[int] = []
    is_made = False
    ours, theirs = channel.pair()
    try:
        first = group.is_born_into or bool(plan.namespaces.all & process.CLONE_NEWUSER)
        if first:
            group.create(plan.resources)
            is_made = True
            group.open_doors()
        pid, pidfd = _clone_first(plan, group)
        if pid == 0:
            ours.close()
            init.run(plan, group, theirs, stdio, gate)
        theirs.close()
        _set_from_outside(plan, pid, ours)
        group.close_doors()
        channel.send_trees(ours, plan.open_trees(assemble))
        if not first:
            group.create(plan.resources, member=pid)
            is_made = True
        channel.send(ours, {"at": "cgroup"})
        if "prestart" in plan.hooks or "createRuntime" in plan.hooks:
            channel.expect(ours, "namespaces")
            state = hooks.state(plan, pid, "creating")
            for name in ("prestart", "createRuntime"):
                hooks.run(plan.hooks.get(name, []), state, name)
            channel.send(ours, {"go": True})
        received = channel.expect(ours, "created")
        netns = -1
        if plan.namespaces.all & process.CLONE_NEWNET:
            netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            received.append(netns)
        bare, *console = received[: 2 if plan.identity.terminal else 1]
    except BaseException:
        ours.close()
        theirs.close()
        for descriptor in received:
            os.close(descriptor)
        group.close_doors()
        if pid > 0:
            _kill_and_reap(pid, pidfd)
        if is_made:
            group.kill()
            group.remove()
        raise
    control = ours
    if gate is not None:
        ours.close()
        control = None
    return Container(
        plan.container_id,
        Process(pid, pidfd, console[0] if console else -1),
        group,
        control=control,
        namespaces=plan.namespaces.all,
        seccomp=plan.identity.seccomp,
        netns=netns,
        rootfs=bare,
    )


def _clone_first(plan: Plan, group: Cgroup) -> tuple[int, int]:
    """The first process, in its pid (and user) namespace; others it makes or joins itself."""
    flags = plan.namespaces.new & (process.CLONE_NEWPID | process.CLONE_NEWUSER)
    joined = plan.namespaces.joined.get(process.CLONE_NEWPID)
    if joined is None:
        return process.clone(flags, cgroup=group.birthplace)
    return _clone_in(joined, flags, group)


def _clone_in(pid_namespace: int, flags: int, group: Cgroup) -> tuple[int, int]:
    """clone3 of a child for another pid namespace: it is the parent that chooses it, and then goes back."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    pid = -1
    try:
        process.setns(pid_namespace, process.CLONE_NEWPID)
        pid, pidfd = process.clone(flags, cgroup=group.birthplace)
        return pid, pidfd
    finally:
        if pid:  # not in the child, whose namespace is settled
            process.setns(own, process.CLONE_NEWPID)
        os.close(own)


def _set_from_outside(plan: Plan, pid: int, control: socket.socket) -> None:
    """What needs the host's privileges over the process: id mappings and the OOM score."""
    if plan.namespaces.new & process.CLONE_NEWUSER:
        _write(f"/proc/{pid}/uid_map", _mapping(plan.uid_mappings))
        _write(f"/proc/{pid}/gid_map", _mapping(plan.gid_mappings))
        channel.send(control, {"go": True})
    adjustment = plan.identity.oom_score_adj
    if adjustment is not None:
        try:
            _write(f"/proc/{pid}/oom_score_adj", str(adjustment))
        except OSError as exc:
            raise StartFailed(
                INTERNAL,
                "unable to start container process: error during container init: write oom_score_adj"
                f" {adjustment}: {go_text(exc)}",
            ) from exc


def _mapping(entries: list[dict[str, Any]]) -> str:
    lines: list[str] = []
    for entry in entries:
        numbers = [values.number(entry, key) for key in ("containerID", "hostID", "size")]
        lines.append(" ".join(str(number or 0) for number in numbers) + "\n")
    return "".join(lines)


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _kill_and_reap(pid: int, pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # the caller's own reaper was quicker
    os.close(pidfd)
