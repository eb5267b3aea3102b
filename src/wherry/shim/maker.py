"""Makes a container in a child of the shim, which is gone once the container runs: for the sake of memory.

    shim ──fork──► maker ──clone──► first process          the maker makes; its pages go with it
    shim ◄── pid, descriptors ── maker                     "created"
    shim ── go ──► maker ── go ──► first process: execve
    shim ◄── started ─── maker: exits                      the first process becomes the shim's child

A page that a process writes to is a page of its own, and reading Python objects writes to them (their reference
counts). Making a container touches most of the runtime's code: 1 MiB that a shim would keep for nothing. A shim
is a child subreaper, so the container's process comes to it when the maker ends.

The maker ends as well when the shim does: their channel closes, and with it the first process that still waits.
"""

from __future__ import annotations

import binascii
import os

from wherry.runtime import channel, lifecycle
from wherry.runtime.cgroups.driver import cgroup_for
from wherry.runtime.errors import INTERNAL, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any, Protocol

    class Made(Protocol):
        """What a `create` such as lifecycle's gives."""

        init: lifecycle.Process
        namespaces: int
        seccomp: bytes | None
        netns: int
        rootfs: int

        def start(self) -> None: ...


class MadeContainer:
    """See runtimes.Container. What is seldom needed is done by a lifecycle.Container, made when it is."""

    def __init__(
        self, maker: socket.socket, message: dict[str, Any], fds: list[int], where: tuple[str, str]
    ) -> None:
        self._maker: socket.socket | None = maker
        self._container_id, self._cgroup_path = where
        self._namespaces = int(message["namespaces"])
        self._seccomp = binascii.a2b_base64(message["seccomp"]) if message["seccomp"] else None
        named = dict(zip(message["names"], fds, strict=True))
        self.init = lifecycle.Process(message["pid"], named["pidfd"], named.get("console", -1))
        self.netns: int = named.get("netns", -1)
        self.rootfs: int = named.get("rootfs", -1)
        self.oom_events: int = named.get("oom", -1)
        self._whole: lifecycle.Container | None = None

    def start(self) -> None:
        """Release the first process; returns once its execve succeeded."""
        maker, self._maker = self._maker, None
        if maker is None:
            raise StartFailed(INTERNAL, "cannot start a container that is not in the created state")
        with maker:
            try:
                channel.send(maker, {"go": True})
            except BrokenPipeError:
                pass  # the end of file says so as well
            channel.expect(maker, "started")

    def exec(
        self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None
    ) -> lifecycle.Process:
        return self._get().exec(process_object, stdio=stdio)

    def signal(self, number: int, *, everything: bool = False) -> None:
        self._get().signal(number, everything=everything)

    def pids(self) -> list[int]:
        return self._get().pids()

    def pause(self) -> None:
        self._get().pause()

    def resume(self) -> None:
        self._get().resume()

    def oom_kill_count(self) -> int:
        return self._get().cgroup.oom_kill_count()

    def destroy(self) -> None:
        """Kill what is left, remove the cgroup, close every descriptor."""
        if self._maker is not None:
            self._maker.close()
            self._maker = None
        self._get().destroy()

    def _get(self) -> lifecycle.Container:
        if self._whole is None:
            self._whole = lifecycle.Container(
                self._container_id,
                self.init,
                cgroup_for(self._cgroup_path),
                control=None,
                namespaces=self._namespaces,
                seccomp=self._seccomp,
                netns=self.netns,
                rootfs=self.rootfs,
            )
        return self._whole


def make(
    create: Callable[[], Made], *, container_id: str, cgroup: str, in_child: Callable[[], None]
) -> MadeContainer:
    """Call `create` in a child and give the container up to "created". Raises its StartFailed.

    `in_child` lets the child go of what is the shim's alone.
    """
    ours, theirs = channel.pair()
    try:
        if os.fork() == 0:
            _be_maker(create, cgroup, in_child, ours, theirs)
        theirs.close()
        message, fds = channel.receive(ours)
        if message is None or message.get("at") != "made":
            for fd in fds:
                os.close(fd)
            raise channel.failure_in(message)
        return MadeContainer(ours, message, fds, (container_id, cgroup))
    except BaseException:
        ours.close()
        theirs.close()
        raise


def _be_maker(
    create: Callable[[], Made],
    cgroup: str,
    in_child: Callable[[], None],
    ours: socket.socket,
    theirs: socket.socket,
) -> None:
    """The maker's whole life."""
    try:
        ours.close()
        in_child()
        try:
            container = create()
            named = {
                "pidfd": container.init.pidfd,
                "console": container.init.console,
                "netns": container.netns,
            }
            named |= {"rootfs": container.rootfs, "oom": _oom_events(cgroup)}
            named = {name: fd for name, fd in named.items() if fd >= 0}
            filter_text = binascii.b2a_base64(container.seccomp).decode() if container.seccomp else ""
            channel.send(
                theirs,
                {
                    "at": "made",
                    "pid": container.init.pid,
                    "namespaces": container.namespaces,
                    "seccomp": filter_text,
                    "names": list(named),
                },
                list(named.values()),
            )
            channel.expect_go(theirs)
            container.start()
            channel.send(theirs, {"at": "started"})
        except StartFailed as exc:
            channel.send_failure(theirs, exc)
        except Exception as exc:
            channel.send_failure(theirs, StartFailed(INTERNAL, f"{type(exc).__name__}: {exc}"))
    finally:
        os._exit(0)


def _oom_events(cgroup: str) -> int:
    try:
        return cgroup_for(cgroup).open_oom_events()
    except OSError:
        return -1  # no memory controller: nothing to tell of
