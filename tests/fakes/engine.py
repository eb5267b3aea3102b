"""An engine without containers, for the API's tests: it fits wherry.api.contract and records what it was asked.

A "container" is a coroutine over its clients' sockets. By name: `cat` echoes its input, `sink` answers the SHA-256
of its input, `source` writes 100 MB, anything else says hello. All but `tty…` write framed output.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from msgspec import UNSET

from wherry.engine.attach import AttachOptions
from wherry.engine.logs import LogsOptions
from wherry.errors import Conflict, InvalidParameter, NotFound, NotModified
from wherry.model import wire
from wherry.model.containers import (
    ContainerConfig,
    ContainerCreate,
    ContainerCreated,
    ContainerInspect,
    ContainersPruned,
    ContainerSummary,
    ContainerTop,
    ContainerUpdate,
    ContainerUpdated,
    ContainerWaited,
    GraphDriverData,
    HostConfig,
    NetworkSettings,
    State,
    SummaryHostConfig,
    SummaryNetworkSettings,
)
from wherry.model.events import Actor, Event
from wherry.model.execs import ExecCreate, ExecCreated, ExecInspect, ExecStart, ProcessConfig
from wherry.model.images import AuthConfig, AuthResponse
from wherry.model.system import Component, PlatformName, Version
from wherry.model.volumes import Volume, VolumeCreate, VolumeList, VolumesPruned

Filters = Mapping[str, list[str]]
BULK = 100_000_000


def frame(stream: int, data: bytes) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


class Client:
    """One hijacked connection as a container sees it."""

    def __init__(self, sock: socket.socket, pending: bytes, *, mux: bool) -> None:
        self.sock = sock
        self._pending = pending
        self._mux = mux

    async def read(self) -> bytes:
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        return await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)

    async def write(self, data: bytes, stream: int = 1) -> None:
        data = frame(stream, data) if self._mux else data
        await asyncio.get_running_loop().sock_sendall(self.sock, data)


async def run_program(name: str, client: Client) -> int:
    """What the container does with its client; returns its exit code."""
    if "cat" in name:
        while data := await client.read():
            await client.write(data)
    elif "sink" in name:
        digest = hashlib.sha256()
        while data := await client.read():
            digest.update(data)
        await client.write(digest.hexdigest().encode())
    elif "source" in name:
        for _ in range(BULK // 100_000):
            await client.write(bytes(100_000))
    elif "fail" in name:
        await client.write(b"oops\n", 2)
        return 7
    else:
        await client.write(b"hello\n")
    return 0


class FakeAttachment:
    def __init__(self, *, mux: bool, deliver: Callable[[socket.socket, bytes], Awaitable[None]]) -> None:
        self.mux = mux
        self.deliver = deliver


class FakeWaiter:
    def __init__(self, done: asyncio.Future[int]) -> None:
        self._done = done

    async def deliver(self, sock: socket.socket) -> None:
        async def answer() -> None:
            body = wire.encode(await self.result()) + b"\n"
            chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
            await asyncio.get_running_loop().sock_sendall(sock, chunk)
            sock.close()

        tasks.append(asyncio.ensure_future(answer()))

    async def result(self) -> ContainerWaited:
        return ContainerWaited(status_code=await asyncio.shield(self._done))


class FakeLogs:
    def __init__(self, *, mux: bool, parts: AsyncIterator[bytes]) -> None:
        self.mux = mux
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts


tasks: list[asyncio.Future[None]] = []
"""What fakes run beside a request; kept so that it is not collected."""


class FakeContainer:
    def __init__(self, container_id: str, name: str, body: ContainerCreate) -> None:
        self.id = container_id
        self.name = name
        self.body = body
        self.program = " ".join([name, *(body.cmd or [])])
        self.clients: list[Client] = []
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.is_started = False


class FakeContainers:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.by_id: dict[str, FakeContainer] = {}

    def find(self, reference: str) -> FakeContainer:
        wanted = reference.removeprefix("/")
        for container in self.by_id.values():
            if container.name == wanted or (wanted and container.id.startswith(wanted)):
                return container
        raise NotFound(f"No such container: {reference}")

    def add(self, name: str, *, cmd: list[str] | None = None, tty: bool = False) -> FakeContainer:
        container_id = hashlib.sha256(f"{name}{len(self.by_id)}".encode()).hexdigest()
        self.by_id[container_id] = FakeContainer(
            container_id, name, ContainerCreate(image="x", cmd=cmd, tty=tty or name.startswith("tty"))
        )
        return self.by_id[container_id]

    async def create(
        self, body: ContainerCreate, *, name: str | None, platform: str | None
    ) -> ContainerCreated:
        self._engine.note("create", body, name, platform)
        if body.image == "missing":
            raise NotFound("No such image: missing:latest")
        if name and any(c.name == name for c in self.by_id.values()):
            raise Conflict(f'Conflict. The container name "/{name}" is already in use by container "x".')
        container = self.add(name or f"c{len(self.by_id)}", cmd=body.cmd, tty=body.tty)
        return ContainerCreated(id=container.id, warnings=[])

    async def list(self, *, all: bool, limit: int, size: bool, filters: Filters) -> list[ContainerSummary]:
        self._engine.note("list", all, limit, size, filters)
        return [
            ContainerSummary(
                id=c.id,
                names=["/" + c.name],
                image="x",
                image_id="sha256:0",
                command="c",
                created=0,
                ports=[],
                labels={},
                state="running",
                status="Up",
                host_config=SummaryHostConfig(annotations={"a": "b"}),
                network_settings=SummaryNetworkSettings(networks={}),
                mounts=[],
            )
            for c in self.by_id.values()
        ]

    async def inspect(self, reference: str, /, *, size: bool = False) -> ContainerInspect:
        container = self.find(reference)
        is_running = container.is_started and not container.exit.done()
        return ContainerInspect(
            id=container.id,
            created="2026-01-01T00:00:00Z",
            path="p",
            args=[],
            state=State(
                status="running" if is_running else "exited",
                running=is_running,
                paused=False,
                restarting=False,
                oom_killed=False,
                dead=False,
                pid=0,
                exit_code=container.exit.result() if container.exit.done() else 0,
                error="",
                started_at="2026-01-01T00:00:00Z",
                finished_at="2026-01-01T00:00:00Z",
            ),
            image="sha256:0",
            resolv_conf_path="",
            hostname_path="",
            hosts_path="",
            log_path="",
            name="/" + container.name,
            restart_count=0,
            driver="x",
            platform="linux",
            mount_label="",
            process_label="",
            app_armor_profile="",
            exec_ids=None,
            host_config=HostConfig(annotations={"a": "b"}),
            graph_driver=GraphDriverData(data=None, name="x"),
            size_rw=5 if size else UNSET,
            mounts=[],
            config=ContainerConfig(tty=container.body.tty, open_stdin=True, attach_stdin=True),
            network_settings=NetworkSettings(),
        )

    async def start(self, reference: str, /, *, detach_keys: str | None) -> None:
        container = self.find(reference)
        self._engine.note("start", container.name)
        if container.is_started:
            raise NotModified("already started")
        container.is_started = True

        async def live() -> None:
            code = 0
            for client in container.clients:
                try:
                    code = await run_program(container.program, client)
                finally:
                    client.sock.close()
            if not container.exit.done():
                container.exit.set_result(code)

        tasks.append(asyncio.ensure_future(live()))

    async def stop(self, reference: str, /, *, timeout_s: int | None, signal: str | None) -> None:
        self._engine.note("stop", timeout_s, signal)
        container = self.find(reference)
        if self._engine.gate is not None:
            await self._engine.gate.wait()
        self._engine.note("stopped")
        if not container.exit.done():
            container.exit.set_result(143)

    async def restart(self, reference: str, /, *, timeout_s: int | None, signal: str | None) -> None:
        self.find(reference)
        self._engine.note("restart", timeout_s, signal)

    async def kill(self, reference: str, /, *, signal: str | None) -> None:
        container = self.find(reference)
        self._engine.note("kill", signal)
        if not container.exit.done():
            container.exit.set_result(137)

    async def pause(self, reference: str, /) -> None:
        self.find(reference)

    async def unpause(self, reference: str, /) -> None:
        self.find(reference)

    async def rename(self, reference: str, name: str, /) -> None:
        self.find(reference).name = name

    async def remove(self, reference: str, /, *, force: bool, volumes: bool, link: bool) -> None:
        self._engine.note("remove", force, volumes, link)
        del self.by_id[self.find(reference).id]

    async def resize(self, reference: str, /, *, height: int, width: int) -> None:
        self.find(reference)
        self._engine.note("resize", height, width)

    async def update(self, reference: str, body: ContainerUpdate, /) -> ContainerUpdated:
        self.find(reference)
        self._engine.note("update", body)
        return ContainerUpdated(warnings=[])

    async def top(self, reference: str, ps_args: str, /) -> ContainerTop:
        self.find(reference)
        return ContainerTop(titles=["PID"], processes=[["1"]])

    async def prune(self, filters: Filters, /) -> ContainersPruned:
        self._engine.note("prune", filters)
        return ContainersPruned(containers_deleted=[], space_reclaimed=0)

    async def trace(self, reference: str, /) -> dict[str, Any]:
        self.find(reference)
        return {"Steps": [{"Name": "x", "At": 1}]}

    async def logs(self, reference: str, options: LogsOptions, /) -> FakeLogs:
        container = self.find(reference)
        self._engine.note("logs", options)

        async def parts() -> AsyncIterator[bytes]:
            try:
                yield frame(1, b"one\n")
                if options.follow:
                    await asyncio.Event().wait()
                if container.name == "broken":
                    raise InvalidParameter("log is broken")
                yield frame(1, b"two\n")
            finally:
                self._engine.note("logs closed")

        return FakeLogs(mux=not container.body.tty, parts=parts())

    async def attach(self, reference: str, options: AttachOptions, /) -> FakeAttachment:
        container = self.find(reference)
        self._engine.note("attach", options)
        mux = not container.body.tty

        async def deliver(sock: socket.socket, pending: bytes) -> None:
            client = Client(sock, pending, mux=mux)
            if not container.name.startswith("run"):
                container.clients.append(client)
                return
            await run_and_close(container.program, client)

        return FakeAttachment(mux=mux, deliver=deliver)

    async def wait(self, reference: str, condition: str, /) -> FakeWaiter:
        self._engine.note("wait", condition)
        return FakeWaiter(self.find(reference).exit)


async def run_and_close(program: str, client: Client) -> None:
    """Run a program beside the request, as a shim would."""

    async def live() -> None:
        try:
            await run_program(program, client)
        except ConnectionError:
            pass
        finally:
            client.sock.close()

    tasks.append(asyncio.ensure_future(live()))


class FakeExecs:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.by_id: dict[str, ExecCreate] = {}

    async def create(self, reference: str, body: ExecCreate, /) -> ExecCreated:
        self._engine.containers.find(reference)
        exec_id = f"{len(self.by_id):064x}"
        self.by_id[exec_id] = body
        return ExecCreated(id=exec_id)

    def _find(self, exec_id: str) -> ExecCreate:
        if exec_id not in self.by_id:
            raise NotFound(f"No such exec instance: {exec_id}")
        return self.by_id[exec_id]

    async def start(self, exec_id: str, body: ExecStart, /) -> FakeAttachment | None:
        exec_ = self._find(exec_id)
        self._engine.note("exec start", body)
        if body.detach:
            return None

        async def deliver(sock: socket.socket, pending: bytes) -> None:
            await run_and_close(" ".join(exec_.cmd or []), Client(sock, pending, mux=not exec_.tty))

        return FakeAttachment(mux=not exec_.tty, deliver=deliver)

    async def resize(self, exec_id: str, /, *, height: int, width: int) -> None:
        self._find(exec_id)

    async def inspect(self, exec_id: str, /) -> ExecInspect:
        exec_ = self._find(exec_id)
        return ExecInspect(
            id=exec_id,
            running=False,
            exit_code=3,
            process_config=ProcessConfig(
                tty=exec_.tty, entrypoint="x", arguments=[], privileged=False, user=""
            ),
            open_stdin=False,
            open_stderr=False,
            open_stdout=False,
            can_remove=False,
            container_id="x",
            detach_keys="",
            pid=0,
        )


class FakeImages:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    async def list(
        self, *, all: bool, filters: Filters, shared_size: bool, digests: bool, manifests: bool
    ) -> list[Any]:
        self._engine.note("images", all, filters)
        return [{"Id": "sha256:0", "Size": 3, "Containers": 2}]

    async def inspect(self, name: str, /, *, platform: str | None, manifests: bool) -> Any:
        self._engine.note("image", name)
        if name == "missing":
            raise NotFound("No such image: missing")
        return {"Id": name, "Size": 3}

    async def history(self, name: str, /) -> list[Any]:
        return [{"Id": name}]

    async def tag(self, source: str, repo: str, tag: str, /) -> None:
        self._engine.note("tag", source, repo, tag)

    async def remove(self, name: str, /, *, force: bool, noprune: bool) -> list[Any]:
        self._engine.note("rmi", name, force, noprune)
        return [{"Untagged": name}]

    async def prune(self, filters: Filters, /) -> Any:
        return {"ImagesDeleted": None, "SpaceReclaimed": 0}

    async def pull(
        self, from_image: str, tag: str, /, *, platform: str | None, auth: AuthConfig | None
    ) -> AsyncIterator[dict[str, Any]]:
        self._engine.note("pull", from_image, tag, platform, auth)
        from_image = from_image.removeprefix("docker.io/library/")
        if from_image == "missing":
            raise NotFound("pull access denied for missing")
        try:
            yield {"status": "Pulling", "id": tag}
            if from_image == "endless":
                await asyncio.Event().wait()
            if from_image == "breaks":
                raise InvalidParameter("digest does not match")
            if from_image == "bug":
                raise KeyError("surprise")
            yield {"status": "Done"}
        finally:
            self._engine.note("pull closed")

    async def load(
        self, stream: AsyncIterator[bytes], /, *, quiet: bool, platforms: list[str]
    ) -> AsyncIterator[dict[str, Any]]:
        digest = hashlib.sha256()
        size = 0
        async for part in stream:
            digest.update(part)
            size += len(part)
        yield {"stream": f"{size} {digest.hexdigest()}"}

    async def import_image(
        self,
        source: str,
        repo: str,
        tag: str,
        /,
        *,
        message: str,
        changes: list[str],
        platform: str | None,
        stream: AsyncIterator[bytes] | None,
    ) -> AsyncIterator[dict[str, Any]]:
        data = b"".join([part async for part in stream]) if stream else source
        self._engine.note("import", data, repo, tag, message, changes)
        yield {"status": "sha256:1"}

    async def save(self, names: list[str], /) -> AsyncIterator[bytes]:
        if "missing" in names:
            raise NotFound("No such image: missing")
        yield b"tar of "
        yield ",".join(names).encode()

    async def login(self, auth: AuthConfig, /) -> AuthResponse:
        self._engine.note("login", auth.username)
        return AuthResponse()


class FakeSystem:
    async def version(self) -> Version:
        return Version(
            platform=PlatformName(name="wherry"),
            components=[Component(name="Engine", version="1")],
            version="28.0.0-fake",
            api_version="1.51",
            min_api_version="1.24",
            git_commit="",
            go_version="",
            os="linux",
            arch="amd64",
            kernel_version="6",
            build_time="",
        )

    async def info(self) -> Any:
        return {"ID": "x", "Swarm": {"LocalNodeState": "inactive"}}

    async def ping(self) -> dict[str, str]:
        return {"Builder-Version": "1"}


class FakeEvents:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.queues: set[asyncio.Queue[Event]] = set()

    def emit(self, kind: str, action: str) -> None:
        for queue in self.queues:
            queue.put_nowait(
                Event(type=kind, action=action, actor=Actor(id="a", attributes={}), time=1, time_nano=2)
            )

    async def subscribe(
        self, *, since_ns: int | None, until_ns: int | None, filters: Filters
    ) -> AsyncIterator[Event]:
        self._engine.note("events", since_ns, until_ns, filters)
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self.queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.queues.discard(queue)
            self._engine.note("events closed")


class FakeVolumes:
    async def list(self, filters: Filters) -> VolumeList:
        return VolumeList([], None)

    async def inspect(self, name: str) -> Volume:
        raise NotFound(f"get {name}: no such volume")

    async def create(self, body: VolumeCreate) -> Volume:
        raise InvalidParameter(f"create {body.name}: no volumes here")

    async def update(self, name: str) -> None:
        raise NotFound(f"get {name}: no such volume")

    async def remove(self, name: str, *, force: bool) -> None:
        raise NotFound(f"get {name}: no such volume")

    async def prune(self, filters: Filters) -> VolumesPruned:
        return VolumesPruned([], 0)


class FakeNetworks:
    async def list(self, filters: Filters, /) -> list[Any]:
        return [{"Name": "bridge"}]

    async def inspect(self, name: str, /) -> Any:
        if name != "bridge":
            raise NotFound(f"network {name} not found")
        return {"Name": name}


class FakeEngine:
    def __init__(self) -> None:
        self.notes: list[tuple[Any, ...]] = []
        self.gate: asyncio.Event | None = None
        """While set, `stop` waits for it."""
        self._noted = asyncio.Event()
        self.containers = FakeContainers(self)
        self.execs = FakeExecs(self)
        self.images = FakeImages(self)
        self.networks = FakeNetworks()
        self.volumes = FakeVolumes()
        self.system = FakeSystem()
        self.events = FakeEvents(self)

    def close(self) -> None:
        """Hang up on every client that waits for a container."""
        for container in self.containers.by_id.values():
            for client in container.clients:
                client.sock.close()
        for task in tasks:
            task.cancel()

    def note(self, *what: Any) -> None:
        self.notes.append(what)
        self._noted.set()

    def noted(self, name: str) -> list[tuple[Any, ...]]:
        return [note for note in self.notes if note[0] == name]

    async def until_noted(self, name: str) -> tuple[Any, ...]:
        """Wait until the engine was asked for `name`."""
        async with asyncio.timeout(10):
            while not self.noted(name):
                self._noted.clear()
                await self._noted.wait()
        return self.noted(name)[-1]
