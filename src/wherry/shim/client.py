"""The daemon's side of launcher and shims: requests as awaitables, events as calls. asyncio.

Requests are sent at once and answered in order, so `create` and `start` may be on their way together: call
both, then await both. Every future ends in the reply's result, in ShimError (the other side refused, `kind`
says why) or in ShimGone (it is not there any more).
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from wherry.errors import WherryError
from wherry.shim import burial, records, sockets
from wherry.shim.protocol import VERSION, Channel, ProtocolError
from wherry.shim.version import code_version

Message = dict[str, Any]
OnEvent = Callable[[Message], None]
OnLost = Callable[[], None]

_START_TIMEOUT_S = 20.0


class ShimError(WherryError):
    """A request was refused. `kind` is one of protocol.NOT_FOUND, PERMISSION, INVALID, CONFLICT, INTERNAL."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ShimGone(WherryError):
    """The launcher or shim ended, or hung up, before it answered."""


class Exit(NamedTuple):
    """How a container ended: `exit.json` and the `exit` event."""

    code: int
    signal: int
    oom_killed: bool
    at_ns: int
    error: str

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Exit:
        return cls(
            int(message["code"]), int(message["signal"]), bool(message["oom_killed"]), int(message["at_ns"]),
            str(message["error"]),
        )  # fmt: skip


class _Connection:
    """One channel on the running loop."""

    def __init__(self, sock: socket.socket, *, on_event: OnEvent, on_lost: OnLost, peer: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(sock)
        self._on_event = on_event
        self._on_lost = on_lost
        self._peer = peer
        self._seq = 0
        self._pending: dict[int, asyncio.Future[tuple[Message, list[int]]]] = {}
        self._writing = False
        self._loop.add_reader(sock.fileno(), self._on_readable)

    @property
    def is_open(self) -> bool:
        return not self._channel.closed

    def request(
        self, op: str, fds: Sequence[int] = (), **fields: object
    ) -> asyncio.Future[tuple[Message, list[int]]]:
        """Send a request now. The future's result is the reply and its descriptors."""
        future: asyncio.Future[tuple[Message, list[int]]] = self._loop.create_future()
        if self._channel.closed:
            future.set_exception(ShimGone(f"{self._peer} is gone"))
            return future
        self._seq += 1
        self._pending[self._seq] = future
        try:
            self._channel.send({"op": op, "seq": self._seq, **fields}, fds)
        except ProtocolError as exc:
            del self._pending[self._seq]
            future.set_exception(ShimError("invalid", str(exc)))
        except OSError:
            # What it said before it went is still to be read; the end of file follows.
            self._on_readable()
        if self._channel.wants_write and not self._writing:
            self._writing = True
            self._loop.add_writer(self._channel.fileno(), self._on_writable)
        return future

    def close(self) -> None:
        """Hang up. `on_lost` is not called."""
        if not self._channel.closed:
            self._loop.remove_reader(self._channel.fileno())
            if self._writing:
                self._loop.remove_writer(self._channel.fileno())
            self._channel.close()
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(ShimGone(f"{self._peer} is gone"))
                    future.exception()  # not everybody awaits what was sent ahead
            self._pending.clear()

    def _on_writable(self) -> None:
        try:
            self._channel.flush()
        except OSError:
            self._lose()
            return
        if not self._channel.wants_write:
            self._writing = False
            self._loop.remove_writer(self._channel.fileno())

    def _on_readable(self) -> None:
        while not self._channel.closed:
            try:
                messages = self._channel.receive()
            except (OSError, ProtocolError):
                messages = None
            if messages is None:
                self._lose()
                return
            if not messages:
                return
            for message, fds in messages:
                self._take(message, fds)

    def _take(self, message: Message, fds: list[int]) -> None:
        future = self._pending.pop(message.get("seq", 0), None)
        if future is None or future.done():
            for fd in fds:
                os.close(fd)
            if future is None and "event" in message:
                self._on_event(message)
        elif "error" in message:
            error = message["error"]
            future.set_exception(ShimError(str(error["kind"]), str(error["message"])))
        else:
            future.set_result((message, fds))

    def _lose(self) -> None:
        self.close()
        self._on_lost()


class Shim:
    """One container's shim. Methods send at once; await the result, or send the next one first."""

    def __init__(self, sock: socket.socket, container_id: str, *, on_event: OnEvent, on_lost: OnLost) -> None:
        self._connection = _Connection(
            sock, on_event=on_event, on_lost=on_lost, peer=f"the shim of container {container_id}"
        )
        self.id = container_id
        self.hello = self._connection.request("hello", version=VERSION)

    @classmethod
    def connect(cls, container_id: str, directory: str, *, on_event: OnEvent, on_lost: OnLost) -> Shim:
        """Connect to the shim that lives in `directory`. Raises ShimGone if none does."""
        try:
            sock = sockets.connect(directory, sockets.SHIM)
        except OSError as exc:
            raise ShimGone(f"no shim answers in {directory}: {exc}") from exc
        return cls(sock, container_id, on_event=on_event, on_lost=on_lost)

    @property
    def is_open(self) -> bool:
        return self._connection.is_open

    def close(self) -> None:
        """Hang up; the shim goes on, or goes when the container has ended."""
        self._connection.close()

    def create(
        self,
        *,
        bundle: str,
        cgroup: str,
        rootfs: Mapping[str, Any] | None,
        runtime: Sequence[str] | None = None,
        stdin: bool = False,
        stdin_once: bool = False,
        log: Mapping[str, Any] | None = None,
        seccomp: str | None = None,
        netns: int | None = None,
    ) -> asyncio.Future[Message]:
        """Make the container up to OCI's "created". Result: `pid`."""
        return self._plain(
            "create",
            [] if netns is None else [netns],
            bundle=bundle,
            cgroup=cgroup,
            rootfs=rootfs,
            runtime=runtime,
            stdin=stdin,
            stdin_once=stdin_once,
            log=log,
            seccomp=seccomp,
            netns=netns is not None,
        )

    def start(self) -> asyncio.Future[Message]:
        """Release the container's process. Result: `pid`, once execve succeeded. ShimError kind not-found:
        127; permission: 126."""
        return self._plain("start")

    def keep(
        self, descriptors: Mapping[str, int], *, relay: Mapping[str, tuple[str, int] | None] | None = None
    ) -> asyncio.Future[Message]:
        """Have copies of `descriptors` held by their names while the container lives; before `create` too.

        `relay`: where to carry what reaches a held socket, an address and a port; None: nowhere. For names that are
        held already it changes their target. At most protocol.MAX_FDS descriptors in one request.
        """
        return self._plain(
            "keep", list(descriptors.values()), names=list(descriptors), relay=dict(relay or {})
        )

    def drop(self, names: Sequence[str]) -> asyncio.Future[Message]:
        """Close what was kept by these names. Those that are not there are passed over."""
        return self._plain("drop", names=list(names))

    def attach(
        self,
        client: socket.socket,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        mux: bool,
        detach_keys: str = "",
        pending: bytes = b"",
    ) -> asyncio.Future[Message]:
        """Give the shim a client's connection. The caller closes its own copy when this is answered."""
        return self._plain(
            "attach",
            [client.fileno()],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            mux=mux,
            detach_keys=detach_keys,
            pending=base64.b64encode(pending).decode(),
        )

    def wait(self, client: socket.socket, condition: str) -> asyncio.Future[Message]:
        """Lend the shim a client whose response head is written, to answer if no daemon can."""
        return self._plain("wait", [client.fileno()], condition=condition)

    def prepare(
        self, process: Mapping[str, Any], *, stdin: bool, for_s: float = 1.0
    ) -> asyncio.Future[Message]:
        """Announce an `exec` of the same process within `for_s` seconds, to make it quicker. A refusal means nothing."""
        return self._plain("prepare", process=process, stdin=stdin, for_s=for_s)

    def exec(
        self,
        exec_id: str,
        process: Mapping[str, Any],
        client: socket.socket | None = None,
        *,
        stdin: bool = False,
        stdout: bool = False,
        stderr: bool = False,
        mux: bool = False,
        detach_keys: str = "",
        pending: bytes = b"",
    ) -> asyncio.Future[Message]:
        """Start another process. Result: `pid`. When refused, the client is still the caller's to answer."""
        return self._plain(
            "exec",
            [] if client is None else [client.fileno()],
            exec_id=exec_id,
            process=process,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            mux=mux,
            detach_keys=detach_keys,
            pending=base64.b64encode(pending).decode(),
        )

    def resize(self, width: int, height: int, *, exec_id: str | None = None) -> asyncio.Future[Message]:
        return self._plain("resize", width=width, height=height, exec_id=exec_id)

    def kill(
        self, number: int, *, exec_id: str | None = None, everything: bool = False
    ) -> asyncio.Future[Message]:
        return self._plain("kill", signal=number, exec_id=exec_id, all=everything)

    def pause(self) -> asyncio.Future[Message]:
        return self._plain("pause")

    def resume(self) -> asyncio.Future[Message]:
        return self._plain("resume")

    def mount(self, entry: Mapping[str, Any]) -> asyncio.Future[Message]:
        """Mount an entry of config.json's `mounts` in the running container."""
        return self._plain("mount", mount=entry)

    def unmount(self, target: str, *, lazily: bool = False) -> asyncio.Future[Message]:
        """Take off what is mounted at `target`. One that is in use is refused, unless `lazily`."""
        return self._plain("unmount", target=target, lazily=lazily)

    def pids(self) -> asyncio.Future[Message]:
        """Result: `pids`, as the host sees them."""
        return self._plain("pids")

    def state(self) -> asyncio.Future[Message]:
        """Result: `status`, `pid`, `execs`, `kept` (names), `exit`, `mounts`."""
        return self._plain("state")

    async def descriptor(self, name: str) -> int:
        """The descriptor `name` (`netns`, `rootfs`, `log`, or one that is kept), the caller's to close."""
        (found,) = await self.descriptors(name)
        return found

    async def descriptors(self, *names: str) -> list[int]:
        """All of these or none: ShimError of kind not-found."""
        _, fds = await self._connection.request("fds", names=names)
        return fds

    async def waiters(self) -> list[tuple[str, socket.socket]]:
        """Clients that an earlier daemon lent, with their condition. The shim keeps copies until released."""
        message, fds = await self._connection.request("fds", names=["waiters"])
        return [(str(c), socket.socket(fileno=fd)) for c, fd in zip(message["waiters"], fds, strict=True)]

    def release(self) -> asyncio.Future[Message]:
        """The exit is noted: once answered, the container's cgroup and mounts are gone, and the shim goes."""
        return self._plain("release")

    def _plain(self, op: str, fds: Sequence[int] = (), **fields: object) -> asyncio.Future[Message]:
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        request = self._connection.request(op, fds, **fields)
        request.add_done_callback(lambda done: _hand_on(done, answer))
        return answer


def _hand_on(done: asyncio.Future[tuple[Message, list[int]]], answer: asyncio.Future[Message]) -> None:
    """The reply without its descriptors, of which there are none."""
    if done.cancelled() or answer.done():
        return
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
        answer.exception()  # what was sent ahead need not be awaited: the first failure is what counts
    else:
        message, fds = done.result()
        for fd in fds:
            os.close(fd)
        answer.set_result(message)


class Launcher:
    """The launcher of one exec root."""

    def __init__(self, exec_root: str, sock: socket.socket, *, on_lost: OnLost) -> None:
        self.exec_root = exec_root
        self._on_lost = on_lost
        self._connection = _Connection(
            sock, on_event=lambda _: None, on_lost=self._lost, peer=f"the launcher in {exec_root}"
        )
        self._child: subprocess.Popen[bytes] | None = None
        self.pid = 0

    @classmethod
    async def open(
        cls,
        exec_root: str,
        *,
        log_drivers: Sequence[str] = (),
        on_lost: OnLost = lambda: None,
        create: str | None = None,
    ) -> Launcher:
        """The launcher that runs there if it runs this very code; else a new one, which takes the old one's
        sockets.

        `log_drivers` are `module:attribute` of those beyond our own. Raises ShimGone if none can be started.
        """
        version = await asyncio.to_thread(code_version)
        found = await cls._find(exec_root, version, on_lost)
        return found or await cls._start(exec_root, version, log_drivers, on_lost, create)

    @classmethod
    async def _find(cls, exec_root: str, version: str, on_lost: OnLost) -> Launcher | None:
        try:
            launcher = cls(exec_root, sockets.connect(exec_root, sockets.LAUNCHER), on_lost=on_lost)
        except OSError:
            return None
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                if await launcher._greet(version) == version:
                    return launcher
        except (ShimGone, ShimError, TimeoutError):
            pass
        launcher.close()
        return None

    @classmethod
    async def _start(
        cls, exec_root: str, version: str, log_drivers: Sequence[str], on_lost: OnLost, create: str | None
    ) -> Launcher:
        ours, theirs = socket.socketpair()
        arguments = [sys.executable, "-P", "-m", "wherry.shim", "--exec-root", exec_root]
        for driver in log_drivers:
            arguments += ["--log-driver", driver]
        if create:
            arguments += ["--create", create]
        arguments += ["--control", str(theirs.fileno())]
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [root, *(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry)]
        # Not the daemon's own stderr: who reads that to its end would wait for the last container.
        log = os.open(
            f"{exec_root}/launcher.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        try:
            child = await asyncio.to_thread(
                subprocess.Popen,
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
            )
        except OSError as exc:
            ours.close()
            raise ShimGone(f"cannot start a launcher: {exc}") from exc
        finally:
            os.close(log)
            theirs.close()
        launcher = cls(exec_root, ours, on_lost=on_lost)
        launcher._child = child
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await launcher._greet(version)
        except TimeoutError as exc:
            launcher.close()
            raise ShimGone(f"the launcher in {exec_root} does not answer") from exc
        return launcher

    async def _greet(self, version: str) -> str:
        message, _ = await self._connection.request("hello", version=version)
        self.pid = int(message["pid"])
        return str(message["version"])

    @property
    def is_open(self) -> bool:
        return self._connection.is_open

    def close(self) -> None:
        """Hang up; the launcher goes on."""
        self._connection.close()

    async def hold(self, name: str, listener: socket.socket) -> None:
        """Have the launcher keep a listening socket for the daemon to come."""
        await self._connection.request("hold", [listener.fileno()], name=name)

    async def take(self) -> dict[str, socket.socket]:
        """The listening sockets it keeps (and goes on keeping)."""
        message, fds = await self._connection.request("take")
        return {str(name): socket.socket(fileno=fd) for name, fd in zip(message["names"], fds, strict=True)}

    async def drop(self, name: str) -> None:
        await self._connection.request("drop", name=name)

    async def stop(self) -> None:
        """Have it end with its last shim: at once if there is none."""
        await self._connection.request("stop")

    def spawn(
        self, container_id: str, directory: str, *, on_event: OnEvent, on_lost: OnLost
    ) -> tuple[Shim, asyncio.Future[tuple[Message, list[int]]]]:
        """A new shim in `directory` (EXEC/containers/ID, which exists). Requests to it may be sent right
        away.

        The future ends when the launcher has forked it; it need not be awaited before anything else: a shim
        that could not be forked is lost (`on_lost`).
        """
        ours, theirs = socket.socketpair()
        try:
            spawned = self._connection.request("spawn", [theirs.fileno()], id=container_id, dir=directory)
        finally:
            theirs.close()
        return Shim(ours, container_id, on_event=on_event, on_lost=on_lost), spawned

    def _lost(self) -> None:
        if self._child is not None:
            asyncio.get_running_loop().run_in_executor(None, self._child.wait)  # or it would stay a zombie
        self._on_lost()


async def bury(directory: str, reason: str) -> Exit:
    """The end of a container whose shim is gone: the one on record, or else what is done and recorded now."""
    return Exit.of(await asyncio.to_thread(burial.bury, directory, reason))


def find_exit(directory: str) -> Exit | None:
    """How the container in `directory` ended, if its shim (or whoever buried it) wrote that down."""
    record = records.find(directory, records.EXIT)
    return None if record is None else Exit.of(record)
