"""The engine inside a Python program: no daemon, no HTTP.

    from wherry import Engine

    with Engine(root="/var/lib/myapp/containers") as engine:
        engine.import_image("rootfs.tar", "busybox")
        print(engine.run("busybox", ["echo", "hello"]).stdout)

`AsyncEngine` has the same methods as coroutines; `Engine` runs one on a thread of its own. Both are the daemon's own
engine: containers outlive the program unless it removes them, one engine at a time has a data root, and a daemon
started on the same root later finds everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from wherry.engine.attach import Attachment, AttachOptions
from wherry.engine.engine import Engine as _Engine
from wherry.engine.logs import LogsOptions
from wherry.engine.settings import EngineSettings
from wherry.errors import NotFound, Unavailable, WherryError
from wherry.model.containers import ContainerCreate, ContainerInspect, ContainerSummary, HostConfig
from wherry.model.execs import ExecCreate, ExecStart
from wherry.model.images import ImageSummary

T = TypeVar("T")

MAX_OUTPUT = 64 << 20
"""Bytes of one stream that `run` and `exec` keep in memory; what is more is refused."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command: its exit code, and all it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class AsyncEngine:
    """An engine for asyncio. `async with AsyncEngine(root=…) as engine:`; raises `wherry.errors`."""

    def __init__(self, *, root: str = "/var/lib/wherry", run_root: str = "", **settings: Any) -> None:
        """`root` is kept over reboots, `run_root` (default: below /run, named after `root`) is not; `settings` are
        the fields of `wherry.engine.settings.EngineSettings`."""
        root = os.path.abspath(root)
        run_root = run_root or ("/run/wherry" if root == "/var/lib/wherry" else f"/run/wherry-{_slug(root)}")
        self._settings = EngineSettings(data_root=root, exec_root=run_root, **settings)
        self._engine: _Engine | None = None

    async def __aenter__(self) -> AsyncEngine:
        self._engine = await _Engine.open(self._settings)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._engine is not None:
            await self._engine.launcher.stop()  # it ends with the last container that still runs
            await self._engine.close()
            self._engine = None

    @property
    def services(self) -> _Engine:
        """Everything else the engine can do, as the API's own calls: `services.containers.inspect(…)`."""
        if self._engine is None:
            raise Unavailable("the engine is not open: use it in a `with` block")
        return self._engine

    # Images

    async def pull(self, reference: str, *, platform: str | None = None) -> None:
        """Pull an image from its registry. Raises what the registry said."""
        await _last(self.services.images.pull(reference, "", platform=platform, auth=None))

    async def load(self, path: str) -> list[str]:
        """Load the images of an archive that `save` (ours or Docker's) wrote; their references or IDs."""
        loaded: list[str] = []
        async for message in self.services.images.load(_file_chunks(path)):
            _raise_failure(message)
            text = str(message.get("stream", "")).strip()
            for start in ("Loaded image: ", "Loaded image ID: "):
                if text.startswith(start):
                    loaded.append(text.removeprefix(start))
        return loaded

    async def import_image(self, path: str, reference: str, *, changes: Sequence[str] = ()) -> str:
        """Make an image of a tar of a root filesystem; its ID."""
        repository, _, tag = reference.partition(":")
        messages = self.services.images.import_image(
            "-", repository, tag, changes=changes, stream=_file_chunks(path)
        )
        return str((await _last(messages)).get("status", ""))

    async def images(self) -> list[ImageSummary]:
        return await self.services.images.list()

    # Containers

    async def run(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        input: bytes = b"",
        pull: bool = True,
        host: HostConfig | None = None,
        **config: Any,
    ) -> Result:
        """Run a command in a new container, wait for its end, remove it.

        `config` are fields of `ContainerCreate` (`env`, `working_dir`, `user`, …), `host` holds the rest.
        """
        host = host or HostConfig()
        container_id = await self._create(
            image, command, pull, host, open_stdin=bool(input), stdin_once=bool(input), **config
        )
        containers = self.services.containers
        try:
            attachment = await containers.attach(
                container_id, AttachOptions(stream=True, stdin=bool(input), stdout=True, stderr=True)
            )
            waiting = await containers.wait(container_id, "next-exit")
            client = await _deliver(attachment)
            reading = asyncio.ensure_future(_collect(client, input))
            try:
                await containers.start(container_id)
                stdout, stderr = await reading
                ended = await waiting.result()
            finally:
                reading.cancel()
        finally:
            await containers.remove(container_id, force=True)
        return Result(exit_code=ended.status_code, stdout=stdout, stderr=stderr)

    async def start(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        pull: bool = True,
        host: HostConfig | None = None,
        **config: Any,
    ) -> str:
        """Start a container in the background; its ID."""
        container_id = await self._create(image, command, pull, host or HostConfig(), **config)
        try:
            await self.services.containers.start(container_id)
        except BaseException:
            await self.services.containers.remove(container_id, force=True)
            raise
        return container_id

    async def _create(
        self,
        image: str,
        command: Sequence[str],
        pull: bool,
        host: HostConfig,
        *,
        name: str | None = None,
        **config: Any,
    ) -> str:
        body = ContainerCreate(image=image, cmd=list(command) or None, host_config=host, **config)
        try:
            return (await self.services.containers.create(body, name=name)).id
        except NotFound:
            if not pull:
                raise
        await self.pull(image)
        return (await self.services.containers.create(body, name=name)).id

    async def exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        input: bytes = b"",
        user: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run another command in a running container."""
        execs = self.services.execs
        created = await execs.create(
            container,
            ExecCreate(
                cmd=list(command),
                user=user,
                env=[f"{key}={value}" for key, value in (env or {}).items()] or None,
                attach_stdin=bool(input),
                attach_stdout=True,
                attach_stderr=True,
            ),
        )
        attachment = await execs.start(created.id, ExecStart())
        assert attachment is not None
        stdout, stderr = await _collect(await _deliver(attachment), input)
        code = await execs.wait(created.id)
        return Result(exit_code=code, stdout=stdout, stderr=stderr)

    async def logs(
        self, container: str, *, follow: bool = False, tail: int | None = None
    ) -> AsyncIterator[bytes]:
        """What a container has written, stdout and stderr together, in pieces; with `follow` until it ends."""
        options = LogsOptions(stdout=True, stderr=True, follow=follow, tail=tail)
        stream = await self.services.containers.logs(container, options)
        unframe = _Unframe()
        try:
            async for chunk in stream:
                if not stream.mux:
                    yield chunk
                    continue
                for _, data in unframe.feed(chunk):
                    yield data
        finally:
            await stream.aclose()

    async def wait(self, container: str) -> int:
        """The exit code, once the container has ended."""
        waiting = await self.services.containers.wait(container)
        return (await waiting.result()).status_code

    async def stop(self, container: str, *, timeout_s: int | None = None) -> None:
        await self.services.containers.stop(container, timeout_s=timeout_s)

    async def remove(self, container: str, *, force: bool = False) -> None:
        await self.services.containers.remove(container, force=force)

    async def inspect(self, container: str) -> ContainerInspect:
        return await self.services.containers.inspect(container)

    async def containers(self, *, all: bool = False) -> list[ContainerSummary]:
        return await self.services.containers.list(all=all)


class Engine:
    """The same for plain code: each method blocks until the coroutine of `AsyncEngine` with its name is done."""

    def __init__(self, *, root: str = "/var/lib/wherry", run_root: str = "", **settings: Any) -> None:
        self._inner = AsyncEngine(root=root, run_root=run_root, **settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wherry-engine", daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        try:
            self._do(self._inner.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._do(self._inner.__aexit__(kind, error, trace))
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def pull(self, reference: str, *, platform: str | None = None) -> None:
        self._do(self._inner.pull(reference, platform=platform))

    def load(self, path: str) -> list[str]:
        return self._do(self._inner.load(path))

    def import_image(self, path: str, reference: str, *, changes: Sequence[str] = ()) -> str:
        return self._do(self._inner.import_image(path, reference, changes=changes))

    def images(self) -> list[ImageSummary]:
        return self._do(self._inner.images())

    def run(
        self, image: str, command: Sequence[str] = (), *, input: bytes = b"", pull: bool = True,
        host: HostConfig | None = None, **config: Any,
    ) -> Result:  # fmt: skip
        return self._do(self._inner.run(image, command, input=input, pull=pull, host=host, **config))

    def start(
        self,
        image: str,
        command: Sequence[str] = (),
        *,
        pull: bool = True,
        host: HostConfig | None = None,
        **config: Any,
    ) -> str:
        return self._do(self._inner.start(image, command, pull=pull, host=host, **config))

    def exec(
        self,
        container: str,
        command: Sequence[str],
        *,
        input: bytes = b"",
        user: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Result:
        return self._do(self._inner.exec(container, command, input=input, user=user, env=env))

    def logs(self, container: str, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        stream = self._inner.logs(container, follow=follow, tail=tail)
        try:
            while True:
                try:
                    yield self._do(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            self._do(_close(stream))

    def wait(self, container: str) -> int:
        return self._do(self._inner.wait(container))

    def stop(self, container: str, *, timeout_s: int | None = None) -> None:
        self._do(self._inner.stop(container, timeout_s=timeout_s))

    def remove(self, container: str, *, force: bool = False) -> None:
        self._do(self._inner.remove(container, force=force))

    def inspect(self, container: str) -> ContainerInspect:
        return self._do(self._inner.inspect(container))

    def containers(self, *, all: bool = False) -> list[ContainerSummary]:
        return self._do(self._inner.containers(all=all))


# Streams


class _Unframe:
    """Takes the 8-byte frames of the multiplexed stream apart, however they are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        self._buffer += data
        found: list[tuple[int, bytes]] = []
        while len(self._buffer) >= 8:
            end = 8 + int.from_bytes(self._buffer[4:8], "big")
            if len(self._buffer) < end:
                break
            found.append((self._buffer[0], bytes(self._buffer[8:end])))
            del self._buffer[:end]
        return found


async def _deliver(attachment: Attachment) -> socket.socket:
    """Our end of a connection whose other end the engine has."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    try:
        await attachment.deliver(theirs, b"")
    except BaseException:
        ours.close()
        raise
    return ours


async def _collect(client: socket.socket, data: bytes) -> tuple[bytes, bytes]:
    """Send `data` as stdin, close it, and read stdout and stderr to their end."""
    loop = asyncio.get_running_loop()
    outputs: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    unframe = _Unframe()

    async def send() -> None:
        try:
            await loop.sock_sendall(client, data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the process ended without reading all of it

    sending = asyncio.ensure_future(send())
    try:
        while chunk := await loop.sock_recv(client, 1 << 18):
            for stream, piece in unframe.feed(chunk):
                output = outputs.setdefault(stream, bytearray())
                if len(output) + len(piece) > MAX_OUTPUT:
                    raise WherryError(f"the command wrote more than {MAX_OUTPUT} bytes: read its log instead")
                output += piece
    finally:
        sending.cancel()
        client.close()
    return bytes(outputs[1]), bytes(outputs[2])


async def _last(messages: AsyncIterator[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The last of progress messages; the failure among them raised."""
    last: Mapping[str, Any] = {}
    async for message in messages:
        _raise_failure(message)
        last = message
    return last


def _raise_failure(message: Mapping[str, Any]) -> None:
    if message.get("error"):
        raise WherryError(str(message["error"]))


async def _file_chunks(path: str) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(open, path, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, 1 << 20):
            yield chunk
    finally:
        file.close()


async def _next(stream: AsyncIterator[bytes]) -> bytes:
    return await anext(stream)


async def _close(stream: AsyncIterator[bytes]) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()


def _slug(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:12]
