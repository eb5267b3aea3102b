"""The engine inside an asyncio program: no daemon, no HTTP.

    async with AsyncEngine(root="/var/lib/myapp/containers") as engine:
        await engine.import_image("rootfs.tar", "busybox")
        result = await engine.run("busybox", ["echo", "hello"])
        print(result.stdout)

This is the daemon's own engine: containers outlive the program unless it removes them, one engine at a time has a
data root (whichever of daemon and program came first; the second is refused with Conflict), and a daemon started on
the same root later finds everything. `wherry.Engine` (blocking.py) is the same for plain code.

A call that is cancelled leaves nothing half-made: what it began is finished first, and then undone.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypedDict, TypeVar, Unpack

import msgspec
from msgspec import UNSET

from wherry.engine.attach import AttachOptions
from wherry.engine.engine import Engine
from wherry.engine.logs import LogsOptions
from wherry.engine.output import Unframe, connect, exchange
from wherry.engine.settings import EngineSettings
from wherry.errors import Conflict, Forbidden, InvalidParameter, NotFound, Unavailable
from wherry.model.containers import (
    ContainerCreate,
    ContainerInspect,
    ContainerSummary,
    EndpointIPAMConfig,
    EndpointSettings,
    HostConfig,
    Mount,
    PortBinding,
)
from wherry.model.execs import ExecCreate, ExecStart
from wherry.model.images import AuthConfig, ImageSummary
from wherry.model.networks import IPAM, IPAMConfig, NetworkCreate, NetworkResource
from wherry.model.volumes import Volume, VolumeCreate
from wherry.oci.reference import parse_reference

T = TypeVar("T")

DEFAULT_ROOT, DEFAULT_RUN_ROOT = "/var/lib/wherry", "/run/wherry"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command: its exit code, and all it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class Options(TypedDict, total=False):
    """What `run` and `start` take by keyword. `host` holds everything that has no word of its own here."""

    name: str
    env: Mapping[str, str]
    user: str
    working_dir: str
    entrypoint: Sequence[str]
    labels: Mapping[str, str]
    network: str  # "bridge" (the default), "none", "host", "container:NAME", or a network's name or ID
    # "/on/the/host:/in/the/container" or "VOLUME:/in/the/container" and, if wanted, ":ro"
    binds: Sequence[str]
    ports: Mapping[str, str]  # "80/tcp": "8080", "127.0.0.1:8080", "[::1]:8000-8010", or "" for any free one
    memory_bytes: int
    read_only: bool
    pull: bool  # pull the image where it is missing; True unless said otherwise
    host: HostConfig


class AsyncEngine:
    """An engine for asyncio: `async with AsyncEngine(root=…) as engine`. Raises `wherry.errors`."""

    def __init__(self, *, root: str = DEFAULT_ROOT, run_root: str = "", **settings: Any) -> None:
        """`root` is kept over reboots; `run_root` (by default below /run, named after `root`) is not.

        `settings` are fields of `wherry.engine.settings.EngineSettings`. Where `bridge` is not among them, engines
        with different roots have different bridges.
        """
        root = os.path.abspath(root)
        is_default = root == DEFAULT_ROOT
        run_root = run_root or (DEFAULT_RUN_ROOT if is_default else f"{DEFAULT_RUN_ROOT}-{_slug(root)}")
        if not is_default:
            settings.setdefault("bridge", f"wh-{_slug(root)}")
        try:
            self._settings = EngineSettings(data_root=root, exec_root=run_root, **settings)
        except TypeError as exc:
            raise InvalidParameter(f"unknown setting: {exc}") from exc
        self._engine: Engine | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def temporary(cls, **settings: Any) -> AsyncGenerator[AsyncEngine]:
        """An engine of which nothing is left afterwards: for tests, and for work that keeps nothing.

        Its containers, images, bridge and firewall rules go, also when the block ends by an exception.
        """
        root = tempfile.mkdtemp(prefix="wherry-", dir="/var/tmp")
        engine = cls(root=root, **settings)
        try:
            async with engine:
                try:
                    yield engine
                finally:
                    await engine._finish(engine.services.dismantle())
        finally:
            for folder in (root, engine._settings.exec_root):
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def __aenter__(self) -> AsyncEngine:
        if self._engine is not None:
            raise Conflict("this engine is open already")
        if os.geteuid() != 0:
            raise Forbidden("the engine needs root privileges: it makes namespaces, mounts and interfaces")
        self._engine = await Engine.open(self._settings)
        return self

    async def __aexit__(self, *error: object) -> None:
        engine, self._engine = self.services, None
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await engine.close()

    @property
    def services(self) -> Engine:
        """Everything else the engine can do, as the API's own calls: `services.containers.rename(…)`."""
        if self._engine is None:
            raise Unavailable("the engine is not open: use it in a `with` block")
        return self._engine

    # Images

    async def pull(
        self, reference: str, *, platform: str | None = None, auth: AuthConfig | None = None
    ) -> None:
        """Pull an image from its registry. Raises what the registry said."""
        wanted = parse_reference(reference)
        messages = self.services.images.pull(
            wanted.repository, wanted.digest or wanted.tag or "latest", platform=platform, auth=auth
        )
        async with aclosing(messages):
            async for _ in messages:
                pass

    async def load(self, path: str) -> list[str]:
        """Load the images of an archive that `save` (ours or Docker's) wrote; their references or IDs."""
        loaded: list[str] = []
        async with (
            aclosing(_chunks_of(path)) as chunks,
            aclosing(self.services.images.load(chunks)) as messages,
        ):
            async for message in messages:
                text = str(message.get("stream", "")).strip()
                for start in ("Loaded image: ", "Loaded image ID: "):
                    if text.startswith(start):
                        loaded.append(text.removeprefix(start))
        return loaded

    async def save(self, references: Sequence[str], path: str) -> None:
        """Write images to an archive that `load` (ours or Docker's) reads. No half of one is left at `path`."""
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(os.path.abspath(path)), delete=False) as file:
            try:
                async with aclosing(self.services.images.save(references)) as pieces:
                    async for piece in pieces:
                        await asyncio.to_thread(file.write, piece)
                file.flush()
                os.rename(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    async def import_image(self, path: str, reference: str, *, changes: Sequence[str] = ()) -> str:
        """Make an image of a tar of a root filesystem; its ID. `changes` are lines of a Dockerfile (`CMD ["sh"]`)."""
        wanted = parse_reference(reference)
        image_id = ""
        async with aclosing(_chunks_of(path)) as chunks:
            messages = self.services.images.import_image(
                "-", wanted.repository, wanted.tag or "", changes=changes, stream=chunks
            )
            async with aclosing(messages):
                async for message in messages:
                    image_id = str(message.get("status", ""))
        return image_id

    async def images(self) -> list[ImageSummary]:
        return await self.services.images.list()

    async def remove_image(self, reference: str, *, force: bool = False) -> None:
        """Take a name from an image, and with the last name the image. Raises Conflict while a container has it."""
        await self.services.images.remove(reference, force=force)

    # Containers

    async def run(
        self, image: str, command: Sequence[str] = (), *, input: bytes = b"", **options: Unpack[Options]
    ) -> Result:
        """Run a command in a new container, wait for its end, and remove the container.

        Raises what keeps the command from being started: NotFound where there is no such image, InvalidParameter
        where there is no such program. A program that starts and fails is a Result.
        """
        container = await self._create(image, command, options, has_input=bool(input))
        try:
            services = self.services.containers
            attachment = await services.attach(
                container.id, AttachOptions(stream=True, stdin=bool(input), stdout=True, stderr=True)
            )
            waiting = await services.wait(container.id, "next-exit")
            client = await connect(attachment)
            talking = asyncio.ensure_future(exchange(client, input, mux=attachment.mux))
            try:
                await self._whole(services.start(container.id))
                stdout, stderr = await talking
                ended = await waiting.result()
            finally:
                talking.cancel()
        finally:
            await self._finish(self._discard(container))
        return Result(exit_code=ended.status_code, stdout=stdout, stderr=stderr)

    async def start(
        self, image: str, command: Sequence[str] = (), **options: Unpack[Options]
    ) -> AsyncContainer:
        """Start a container in the background. `async with await engine.start(…)` removes it afterwards."""
        container = await self._create(image, command, options)
        try:
            await self._whole(self.services.containers.start(container.id))
        except BaseException:
            await self._finish(self._discard(container))
            raise
        return container

    def container(self, reference: str) -> AsyncContainer:
        """The container with this name, ID or start of an ID. Raises NotFound."""
        return AsyncContainer(self, self.services.containers.find(reference).id)

    async def containers(self, *, all: bool = False) -> list[ContainerSummary]:
        """Those that run, or all, the newest first."""
        return await self.services.containers.list(all=all)

    # Networks

    async def create_network(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnets: Sequence[str] = (),
        ipv6: bool = False,
        internal: bool = False,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncNetwork:
        """Make a network. `async with await engine.create_network(…)` removes it afterwards.

        Without `subnets` (`10.5.0.0/24`) wherry chooses. Raises Conflict where there is one of that name.
        """
        body = NetworkCreate(
            name=name,
            driver=driver,
            ipam=IPAM(config=[IPAMConfig(subnet=subnet) for subnet in subnets]),
            enable_ipv6=ipv6,
            internal=internal,
            options=dict(options or {}),
            labels=dict(labels or {}),
        )

        async def create() -> AsyncNetwork:
            return AsyncNetwork(self, (await self.services.networks.create(body)).id)

        return await self._whole(create(), undo=AsyncNetwork.remove)

    async def network(self, reference: str) -> AsyncNetwork:
        """The network with this name, ID or start of an ID. Raises NotFound."""
        return AsyncNetwork(self, (await self.services.networks.inspect(reference)).id)

    async def networks(self) -> list[NetworkResource]:
        """All of them, the newest first; `inspect` tells who is on one."""
        return await self.services.networks.list()

    # Volumes

    async def volumes(self) -> list[Volume]:
        """All volumes, by name."""
        return (await self.services.volumes.list()).volumes

    async def create_volume(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        """The volume `name`, made if there is none. Its files are at `mountpoint`, unless options say otherwise.

        A container has it by `binds=["NAME:/place"]`, which makes it too.
        """
        body = VolumeCreate(
            name=name,
            driver=driver,
            driver_opts=None if options is None else dict(options),
            labels=None if labels is None else dict(labels),
        )
        return await self._whole(self.services.volumes.create(body))

    async def remove_volume(self, name: str, *, force: bool = False) -> None:
        """Remove it with its data. Raises Conflict while a container uses it, NotFound where there is none."""
        await self._whole(self.services.volumes.remove(name, force=force))

    # Making containers

    async def _create(
        self, image: str, command: Sequence[str], options: Options, *, has_input: bool = False
    ) -> AsyncContainer:
        body = _request(image, command, options, has_input=has_input)

        async def create() -> AsyncContainer:
            created = await self.services.containers.create(body, name=options.get("name"))
            return AsyncContainer(self, created.id)

        try:
            return await self._whole(create(), undo=self._discard)
        except NotFound as exc:
            if not options.get("pull", True) or not str(exc).startswith("No such image: "):
                raise
        await self.pull(image)
        return await self._whole(create(), undo=self._discard)

    async def _discard(self, container: AsyncContainer) -> None:
        try:
            await self.services.containers.remove(container.id, force=True, volumes=True)
        except (NotFound, Conflict):
            pass  # it removed itself, or is about to

    # Calls that must not stop in the middle

    async def whole(self, work: Coroutine[Any, Any, T]) -> T:
        """`work`'s result; it goes on to its end when we are cancelled meanwhile."""
        return await self._whole(work)

    async def _whole(
        self, work: Coroutine[Any, Any, T], *, undo: Callable[[T], Coroutine[Any, Any, None]] | None = None
    ) -> T:
        """`work`'s result. If we are cancelled meanwhile it goes on to its end, and `undo` takes its result back."""
        task = self._own(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._finish(_take_back(task, undo))
            raise

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` to its end, cancelled or not."""
        await asyncio.shield(self._own(work))

    def _own(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that the engine waits for before it closes."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class AsyncContainer:
    """A container that was started, or found. As a context manager it is removed, running or not, at the end."""

    def __init__(self, engine: AsyncEngine, container_id: str) -> None:
        self._engine = engine
        self.id = container_id

    def __repr__(self) -> str:
        return f"<container {self.id[:12]}>"

    async def __aenter__(self) -> AsyncContainer:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._engine._finish(self._engine._discard(self))  # pyright: ignore[reportPrivateUsage]: one module

    async def exec(
        self,
        command: Sequence[str],
        *,
        input: bytes = b"",
        user: str = "",
        env: Mapping[str, str] | None = None,
        working_dir: str = "",
    ) -> Result:
        """Run another command in it. A program that is not there is exit code 127, as in a shell.

        Like a process of Docker's, it goes on when the call is cancelled; it ends with its container.
        """
        execs = self._engine.services.execs
        body = ExecCreate(
            cmd=list(command),
            user=user,
            env=_pairs(env),
            working_dir=working_dir,
            attach_stdin=bool(input),
            attach_stdout=True,
            attach_stderr=True,
        )
        created = await execs.create(self.id, body)
        attachment = await execs.start(created.id, ExecStart())
        assert attachment is not None  # only a detached one has none
        stdout, stderr = await exchange(await connect(attachment), input, mux=True)
        return Result(exit_code=await execs.wait(created.id), stdout=stdout, stderr=stderr)

    async def logs(self, *, follow: bool = False, tail: int | None = None) -> AsyncGenerator[bytes]:
        """What it has written, stdout and stderr together, in pieces that end with a line; with `follow` until it ends."""
        options = LogsOptions(stdout=True, stderr=True, follow=follow, tail=tail)
        stream = await self._engine.services.containers.logs(self.id, options)
        unframe = Unframe()
        try:
            async for chunk in stream:
                data = b"".join(piece for _, piece in unframe.feed(chunk)) if stream.mux else chunk
                if data:
                    yield data
        finally:
            await stream.aclose()

    async def wait(self) -> int:
        """The exit code, once it has ended."""
        waiting = await self._engine.services.containers.wait(self.id)
        return (await waiting.result()).status_code

    async def stop(self, *, timeout_s: int | None = None) -> None:
        """Stopped when this returns: by its stop signal, or after `timeout_s` (10, or its own) by SIGKILL."""
        await self._engine.services.containers.stop(self.id, timeout_s=timeout_s)

    async def ports(self) -> dict[str, list[PortBinding] | None]:
        """Where its ports are on the host; None for one that is exposed and not published."""
        return self._engine.services.ports.list(self.id)

    async def publish(self, ports: Mapping[str, str]) -> dict[str, list[PortBinding] | None]:
        """Publish more ports, running or not, and remember it; `ports` as for `start`. All of them or none."""
        return await self._engine.whole(self._engine.services.ports.add(self.id, _bindings(ports)))

    async def withdraw(self, port: str, *, host_ip: str = "", host_port: str = "") -> None:
        """Publish `port` ("80/tcp") no more: nowhere, or not at that port of the host. NotFound when it is not."""
        await self._engine.whole(
            self._engine.services.ports.remove(self.id, port, host_ip=host_ip, host_port=host_port)
        )

    async def remove(self, *, force: bool = False) -> None:
        """Gone when this returns. One that runs is refused without `force`."""
        await self._engine.services.containers.remove(self.id, force=force)

    async def add_mount(self, source: str, target: str, *, read_only: bool = False) -> None:
        """Give it a directory or file of the host (an absolute path) or a volume (a name), running or not, for good."""
        kind = "bind" if source.startswith("/") else "volume"
        mount = Mount(type=kind, source=source, target=target, read_only=read_only)
        await self._engine._whole(self._engine.services.containers.add_mount(self.id, mount))  # pyright: ignore[reportPrivateUsage]: one module

    async def remove_mount(self, target: str, *, force: bool = False) -> None:
        """Take it away again. Raises Conflict while a process uses it, unless `force`."""
        work = self._engine.services.containers.remove_mount(self.id, target, force=force)
        await self._engine._whole(work)  # pyright: ignore[reportPrivateUsage]: one module

    async def inspect(self) -> ContainerInspect:
        return await self._engine.services.containers.inspect(self.id)


class AsyncNetwork:
    """A network that was made, or found. As a context manager it is removed at the end, when nobody is on it."""

    def __init__(self, engine: AsyncEngine, network_id: str) -> None:
        self._engine = engine
        self.id = network_id

    def __repr__(self) -> str:
        return f"<network {self.id[:12]}>"

    async def __aenter__(self) -> AsyncNetwork:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._engine._finish(self.remove())  # pyright: ignore[reportPrivateUsage]: one module

    async def connect(
        self, container: AsyncContainer, *, ip: str = "", ip6: str = "", aliases: Sequence[str] = ()
    ) -> None:
        """Let the container be on this network too, running or not."""
        addresses = EndpointIPAMConfig(ipv4_address=ip or UNSET, ipv6_address=ip6 or UNSET)
        settings = EndpointSettings(ipam_config=addresses, aliases=list(aliases) or None)
        work = self._engine.services.networks.connect(self.id, container.id, settings)
        await self._engine._whole(work)  # pyright: ignore[reportPrivateUsage]: one module

    async def disconnect(self, container: AsyncContainer) -> None:
        """Take the container off this network."""
        work = self._engine.services.networks.disconnect(self.id, container.id)
        await self._engine._whole(work)  # pyright: ignore[reportPrivateUsage]: one module

    async def remove(self) -> None:
        """Gone when this returns. One that a running container is on is refused (Forbidden)."""
        await self._engine.services.networks.remove(self.id)

    async def inspect(self) -> NetworkResource:
        return await self._engine.services.networks.inspect(self.id)


def _request(
    image: str, command: Sequence[str], options: Options, *, has_input: bool = False
) -> ContainerCreate:
    """The API's request for these options. Raises TypeError for a word that is not one of `Options`."""
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}: there are {', '.join(Options.__annotations__)}")
    if isinstance(command, str):
        raise TypeError(f"command {command!r}: give a list of its words, or ['sh', '-c', command]")
    host = msgspec.structs.replace(options.get("host") or HostConfig())
    if "network" in options:
        host.network_mode = options["network"]
    if "binds" in options:
        host.binds = list(options["binds"])
    if "ports" in options:
        host.port_bindings = {**(host.port_bindings or {}), **_bindings(options["ports"])}
    if "memory_bytes" in options:
        host.memory = options["memory_bytes"]
    if "read_only" in options:
        host.readonly_rootfs = options["read_only"]
    return ContainerCreate(
        image=image,
        cmd=list(command) or None,
        env=_pairs(options.get("env")),
        user=options.get("user", ""),
        working_dir=options.get("working_dir", ""),
        entrypoint=list(options["entrypoint"]) if "entrypoint" in options else None,
        labels=dict(options["labels"]) if "labels" in options else None,
        open_stdin=has_input,
        stdin_once=has_input,
        host_config=host,
    )


def _bindings(ports: Mapping[str, str]) -> dict[str, list[PortBinding] | None]:
    """`{"80/tcp": "127.0.0.1:8080"}` in the API's words."""
    found: dict[str, list[PortBinding] | None] = {}
    for port, where in ports.items():
        address, _, number = where.rpartition(":")
        found[port] = [PortBinding(host_ip=address.strip("[]"), host_port=number)]
    return found


def _pairs(env: Mapping[str, str] | None) -> list[str] | None:
    return [f"{key}={value}" for key, value in env.items()] if env else None


async def _take_back(task: asyncio.Task[T], undo: Callable[[T], Coroutine[Any, Any, None]] | None) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None and undo is not None:
        await undo(task.result())


async def _chunks_of(path: str) -> AsyncGenerator[bytes]:
    file = await asyncio.to_thread(open, path, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, 1 << 20):
            yield chunk
    finally:
        file.close()


def _slug(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:12]
