"""The daemon's side of the helper: views of containers, and the jobs done in them. asyncio.

    helper = Helper()
    view = await helper.open({"kind": "running", …}, [namespace])
    stat, pieces = await view.pack("/etc")
    await view.close()                             the helper's processes and mounts are gone

The helper is started when it is first needed, and again if it died.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from typing import Any, Final

import msgspec

from wherry.errors import Internal, WherryError
from wherry.files.jobs import ERRORS

Message = dict[str, Any]

_PIECE: Final = 256 << 10
_BUFFER: Final = 1 << 20
_MAX_MESSAGE: Final = 1 << 20
_RETRY_S: Final = 0.01


class PathStat(msgspec.Struct, frozen=True):
    """What is at a path: `mode` is Go's os.FileMode, `target` where a symlink leads in the end."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    target: str


class Helper:
    """One for a daemon. `close` ends it with all its views."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._starting = asyncio.Lock()
        self._next = 0
        self._ended: dict[int, asyncio.Event] = {}

    async def open(self, order: Message, descriptors: Sequence[int]) -> View:
        """A view. The descriptors stay the caller's. Raises what `files.view` met."""
        async with self._starting:
            if self._control is None:
                await self._start()
        assert self._control is not None
        self._next += 1
        number = self._next
        ended = self._ended[number] = asyncio.Event()
        ours, theirs = _pair(socket.SOCK_SEQPACKET)
        view = View(ours, ended)
        try:
            try:
                await _send(self._control, {**order, "view": number}, [theirs.fileno(), *descriptors])
            except OSError as exc:
                raise Internal(f"the helper for containers' files is gone: {exc}") from exc
            finally:
                theirs.close()
            _raise_for(await _receive(ours))
        except BaseException:
            await asyncio.shield(view.close())
            raise
        return view

    async def close(self) -> None:
        control, self._control = self._control, None
        process, self._process = self._process, None
        if control is not None:
            asyncio.get_running_loop().remove_reader(control.fileno())
            control.close()
        if process is not None:
            await asyncio.to_thread(process.wait)
        self._all_ended()

    async def _start(self) -> None:
        ours, theirs = _pair(socket.SOCK_SEQPACKET)
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        paths = [root, *(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry)]
        try:
            self._process = await asyncio.to_thread(
                subprocess.Popen,
                [sys.executable, "-P", "-m", "wherry.files", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except OSError as exc:
            ours.close()
            raise Internal(f"cannot start the helper for containers' files: {exc}") from exc
        finally:
            theirs.close()
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._on_readable, ours)

    def _on_readable(self, control: socket.socket) -> None:
        try:
            data = control.recv(_MAX_MESSAGE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            ended = self._ended.pop(msgspec.json.decode(data)["ended"], None)
            if ended is not None:
                ended.set()
            return
        asyncio.get_running_loop().remove_reader(control.fileno())
        control.close()
        process, self._process, self._control = self._process, None, None
        if process is not None:
            process.wait()  # it has hung up: it is at its end
        self._all_ended()

    def _all_ended(self) -> None:
        for ended in self._ended.values():
            ended.set()
        self._ended.clear()


class View:
    """A container's files, until `close`."""

    def __init__(self, sock: socket.socket, ended: asyncio.Event) -> None:
        self._sock = sock
        self._ended = ended

    async def close(self) -> None:
        """End the jobs under way. Nothing of the view is left when this returns."""
        self._sock.close()
        await self._ended.wait()

    async def stat(self, path: str) -> PathStat:
        job = await self._begin({"job": "stat", "path": path})
        try:
            return msgspec.convert(_raise_for(await job.hear())["stat"], PathStat)
        finally:
            job.close()

    async def pack(
        self, path: str, *, bare: bool = False, name: str | None = None
    ) -> tuple[PathStat, AsyncGenerator[bytes]]:
        """What is at `path`, and its tar in pieces: to be closed. `bare`: nothing that is mounted below the root."""
        order: Message = {"job": "pack", "path": path, "bare": bare}
        if name is not None:
            order["name"] = name
        job = await self._begin(order)
        try:
            found = msgspec.convert(_raise_for(await job.hear())["stat"], PathStat)
        except BaseException:
            job.close()
            raise
        return found, job.pieces()

    async def extract(
        self, path: str, chunks: AsyncIterable[bytes], *, merge_only: bool = False, owner: str = ""
    ) -> None:
        """Unpack the tar in `chunks`, compressed or not, into the directory `path`."""
        job = await self._begin({"job": "extract", "path": path, "merge_only": merge_only, "owner": owner})
        feeding = asyncio.ensure_future(job.feed(chunks))
        answering = asyncio.ensure_future(job.hear())
        try:
            await asyncio.wait((feeding, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                await feeding  # what goes wrong with the client ends the job
            _raise_for(await answering)
        finally:
            for task in (feeding, answering):
                task.cancel()
            await asyncio.gather(feeding, answering, return_exceptions=True)
            job.close()

    async def changes(self) -> list[tuple[int, bytes]]:
        """Kinds and paths (store.changes)."""
        job = await self._begin({"job": "changes"})
        data = bytearray()
        async for piece in job.pieces():
            data += piece
        return [(line[0] - 0x30, bytes(line[1:])) for line in bytes(data).split(b"\0") if line]

    async def layer(self) -> Job:
        """The layer's tar. The job's `data` is read by the caller, `check` called at its end, `close` in any case."""
        return await self._begin({"job": "layer"})

    async def _begin(self, order: Message) -> Job:
        our_talk, their_talk = _pair(socket.SOCK_SEQPACKET)
        our_data, their_data = _pair(socket.SOCK_STREAM)
        try:
            await _send(self._sock, order, [their_talk.fileno(), their_data.fileno()])
        except OSError as exc:
            our_talk.close()
            our_data.close()
            raise Internal(f"the view of the container's files is gone: {exc}") from exc
        finally:
            their_talk.close()
            their_data.close()
        return Job(our_talk, our_data)


class Job:
    def __init__(self, talk: socket.socket, data: socket.socket) -> None:
        self._talk = talk
        self.data = data

    async def hear(self) -> Message:
        """The next thing it says."""
        return await _receive(self._talk)

    async def check(self) -> None:
        """Wait for its end. Raises what went wrong."""
        _raise_for(await self.hear())

    async def pieces(self) -> AsyncGenerator[bytes]:
        """What it writes. The step after the last piece raises what went wrong."""
        loop = asyncio.get_running_loop()
        try:
            while piece := await loop.sock_recv(self.data, _PIECE):
                yield piece
            await self.check()
        finally:
            self.close()

    async def feed(self, chunks: AsyncIterable[bytes]) -> None:
        loop = asyncio.get_running_loop()
        try:
            async for chunk in chunks:
                await loop.sock_sendall(self.data, chunk)
            self.data.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError) as exc:
            if exc.errno is None:
                raise  # not the helper's end but the client's

    def close(self) -> None:
        self._talk.close()
        self.data.close()


def _pair(kind: int) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setblocking(False)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return ours, theirs


async def _send(sock: socket.socket, message: Message, descriptors: Sequence[int]) -> None:
    data = msgspec.json.encode(message)
    while True:
        try:
            socket.send_fds(sock, [data], descriptors)
            return
        except (BlockingIOError, InterruptedError):
            await asyncio.sleep(_RETRY_S)


async def _receive(sock: socket.socket) -> Message:
    try:
        data = await asyncio.get_running_loop().sock_recv(sock, _MAX_MESSAGE)
    except ConnectionResetError:
        data = b""
    if not data:
        raise Internal("the helper for containers' files died")
    return msgspec.json.decode(data)


def _raise_for(message: Message) -> Message:
    kind = message.get("error")
    if kind is not None:
        error: type[WherryError] = ERRORS.get(kind, Internal)
        raise error(message["message"])
    return message
