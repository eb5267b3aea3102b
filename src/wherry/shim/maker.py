"""Makes a container in a child of the shim, which is gone once the container runs: for the sake of memory.

    shim ──fork──► maker                    at once, so that it is ready when the request comes
    shim ── create ──► maker ──clone──► first process
    shim ◄── pid, descriptors ── maker      OCI's "created"
    shim ── start ──► maker ── go ──► first process: execve
    shim ◄── {} ── maker, which ends        the first process becomes the shim's child

A page that a process writes to is a page of its own, and reading Python objects writes to them (their reference
counts). Making a container touches most of the runtime's code: a MiB that every shim would keep for nothing. A
shim is a child subreaper, so the container's process comes to it when the maker ends. The maker ends with the
shim as well: their channel closes, and with it the first process that still waits to be started.
"""

from __future__ import annotations

import binascii
import json
import os
import signal
import socket

from wherry.linux import process
from wherry.runtime import lifecycle
from wherry.runtime.cgroups.driver import cgroup_for
from wherry.runtime.errors import INTERNAL, INVALID, StartFailed
from wherry.shim.pipes import Pipes
from wherry.shim.protocol import Channel, ProtocolError, close_all, is_object
from wherry.shim.stdio import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    class Made(Protocol):
        """What a `create` such as lifecycle's gives."""

        init: lifecycle.Process
        namespaces: int
        seccomp: bytes | None
        netns: int
        rootfs: int

        def start(self) -> None: ...

    Create = Callable[..., Made]
    Message = dict[str, Any]

MAX_CONFIG = 8 << 20


class MakerGone(StartFailed):
    """The maker died at its work, and cleaned up nothing."""


class MadeContainer:
    """See runtimes.Container. What is seldom needed is done by a lifecycle.Container, made when it is."""

    def __init__(self, maker: Maker, request: Message, reply: Message, fds: list[int]) -> None:
        self._maker = maker
        self._container_id = request["id"]
        self._cgroup_path = request["cgroup"]
        self._namespaces = reply["namespaces"]
        self._seccomp: str = reply["seccomp"]
        named = dict(zip(reply["names"], fds, strict=True))
        self.init = lifecycle.Process(reply["pid"], named["pidfd"], named.get("console", -1))
        self.netns: int = named.get("netns", -1)
        self.rootfs: int = named.get("rootfs", -1)
        self.oom_events: int = named.get("oom", -1)
        self.stdin: int = named.get("stdin", -1)
        self.sources = {name: named[name] for name in (STDOUT, STDERR) if name in named}
        self._whole: lifecycle.Container | None = None

    def start(self) -> None:
        """Release the first process; returns once its execve succeeded."""
        try:
            self._maker.ask({"op": "start"})
        finally:
            self._maker.close()

    def prepare(
        self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None
    ) -> lifecycle.Prepared:
        return self._get().prepare(process_object, stdio=stdio)

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
        self._maker.close()
        self._get().destroy()

    def _get(self) -> lifecycle.Container:
        if self._whole is None:
            self._whole = lifecycle.Container(
                self._container_id,
                self.init,
                cgroup_for(self._cgroup_path),
                control=None,
                namespaces=self._namespaces,
                seccomp=binascii.a2b_base64(self._seccomp) if self._seccomp else None,
                netns=self.netns,
                rootfs=self.rootfs,
            )
        return self._whole


class Maker:
    """The shim's side: a child that is ready to make one container."""

    def __init__(self, create: Create, in_child: Callable[[], None]) -> None:
        """Fork it. `in_child` lets it go of what is the shim's alone: a copy of a connection keeps it open."""
        ours, theirs = socket.socketpair()
        shim = os.getpid()
        if os.fork() == 0:
            try:
                # Whoever buries a container finds its cgroup only if nobody is still making it.
                process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() != shim:
                    return
                ours.close()
                in_child()
                _make(create, _blocking(theirs))
            finally:
                os._exit(0)
        theirs.close()
        self._channel = _blocking(ours)

    def make(self, container_id: str, request: Message, fds: Sequence[int]) -> MadeContainer:
        """The container that the shim's request `create` describes, up to "created". Raises StartFailed."""
        request = {**request, "id": container_id}
        try:
            reply, found = self.ask(request, fds)
        except MakerGone:
            group = cgroup_for(request["cgroup"])
            group.kill()
            group.remove()
            raise
        return MadeContainer(self, request, reply, found)

    def ask(self, request: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Wait for what the maker says to `request`. Raises StartFailed."""
        try:
            self._channel.send(request, fds)
            answer = _next(self._channel)
        except (OSError, ProtocolError) as exc:
            raise MakerGone(INTERNAL, f"the container's maker is gone: {exc}") from exc
        if answer is None:
            raise MakerGone(INTERNAL, "the container's maker is gone: it was killed")
        reply, found = answer
        if "error" in reply:
            close_all(found)
            raise StartFailed(reply["error"]["kind"], reply["error"]["message"])
        return reply, found

    def close(self) -> None:
        """Let it end, if it has not: what it made and did not start ends too."""
        self._channel.close()


def read_config(bundle: str) -> dict[str, Any]:
    """The bundle's config.json. Raises StartFailed, or OSError if it cannot be read."""
    path = f"{bundle}/config.json"
    try:
        spec: Any = json.loads(read_file(path))
    except (ValueError, RecursionError) as exc:
        raise StartFailed(INVALID, f"{path} is not JSON: {exc}") from exc
    if not is_object(spec) or not is_object(spec.get("process")):
        raise StartFailed(INVALID, f"{path} describes no process")
    return spec


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_CONFIG + 1)
    if len(data) > MAX_CONFIG:
        raise StartFailed(INVALID, f"{path} is larger than {MAX_CONFIG} bytes")
    return data


def wait_for_one(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The one message that a blocking socket brings, with its descriptors; None if it closes instead."""
    channel = _blocking(sock)
    try:
        return _next(channel)
    except (OSError, ProtocolError):
        return None
    finally:
        channel.close()


def _blocking(sock: socket.socket) -> Channel:
    channel = Channel(sock)
    sock.setblocking(True)
    return channel


def _next(channel: Channel) -> tuple[Message, list[int]] | None:
    """The next message on a blocking channel; None at the end. One is under way at a time."""
    while channel.wants_write:
        channel.flush()
    while (messages := channel.receive()) is not None:
        if messages:
            return messages[0]
    return None


def _make(create: Create, channel: Channel) -> None:
    """The maker's whole life."""
    try:
        if (first := _next(channel)) is None:
            return
        container, reply, fds = _created(create, *first)
        channel.send(reply, fds)
        if _next(channel) is None:
            return
        container.start()
        channel.send({})
    except StartFailed as exc:
        channel.send({"error": {"kind": exc.kind, "message": exc.message}})
    except Exception as exc:
        channel.send({"error": {"kind": INTERNAL, "message": f"{type(exc).__name__}: {exc}"}})


def _created(create: Create, request: Message, fds: list[int]) -> tuple[Made, Message, list[int]]:
    """Make the container; what to tell the shim, and the descriptors for it."""
    spec = read_config(request["bundle"])
    pipes = None if spec["process"].get("terminal") else Pipes(stdin=bool(request.get("stdin")))
    container = create(
        spec,
        container_id=request["id"],
        bundle=request["bundle"],
        rootfs=request.get("rootfs"),
        stdio=pipes.theirs if pipes else None,
        netns=fds[0] if request.get("netns") else None,
        seccomp=read_file(request["seccomp"]) if request.get("seccomp") else None,
        cgroup=request["cgroup"],
    )
    named = {
        "pidfd": container.init.pidfd,
        "console": container.init.console,
        "netns": container.netns,
        "rootfs": container.rootfs,
        "oom": _oom_events(request["cgroup"]),
    }
    if pipes:
        close_all(pipes.theirs)
        named |= {"stdin": pipes.stdin, **pipes.sources}
    named = {name: fd for name, fd in named.items() if fd >= 0}
    reply = {
        "pid": container.init.pid,
        "namespaces": container.namespaces,
        "seccomp": binascii.b2a_base64(container.seccomp).decode() if container.seccomp else "",
        "names": list(named),
    }
    return container, reply, list(named.values())


def _oom_events(cgroup: str) -> int:
    try:
        return cgroup_for(cgroup).open_oom_events()
    except OSError:
        return -1  # no memory controller: nothing to tell of
