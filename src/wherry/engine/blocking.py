"""The engine inside a plain program: `wherry.Engine`.

    from wherry import Engine

    with Engine(root="/var/lib/myapp/containers") as engine:
        engine.import_image("rootfs.tar", "busybox")
        print(engine.run("busybox", ["echo", "hello"]).stdout)

Each method blocks until the coroutine of `AsyncEngine` or `AsyncContainer` with its name is done, on a thread with an
event loop that this engine has for itself. May be used from several threads. A call that Ctrl-C interrupts is undone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine, Generator, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar, Unpack

from wherry.engine.embedded import DEFAULT_ROOT, AsyncContainer, AsyncEngine, AsyncNetwork, Options, Result
from wherry.errors import Conflict, Unavailable
from wherry.model.containers import ContainerInspect, ContainerSummary, PortBinding
from wherry.model.images import AuthConfig, ImageSummary
from wherry.model.networks import NetworkResource
from wherry.model.volumes import Volume

T = TypeVar("T")


class Engine:
    """An engine for plain code: `with Engine(root=…) as engine`. Raises `wherry.errors`."""

    def __init__(self, *, root: str = DEFAULT_ROOT, run_root: str = "", **settings: Any) -> None:
        """See AsyncEngine."""
        self._inner = AsyncEngine(root=root, run_root=run_root, **settings)
        self._thread: _LoopThread | None = None

    @classmethod
    @contextlib.contextmanager
    def temporary(cls, **settings: Any) -> Generator[Engine]:
        """An engine of which nothing is left afterwards: for tests, and for work that keeps nothing."""
        with _LoopThread() as thread:
            manager = AsyncEngine.temporary(**settings)
            engine = cls.__new__(cls)
            engine._inner = thread.do(manager.__aenter__())
            engine._thread = thread
            try:
                yield engine
            finally:
                engine._thread = None
                thread.cancel_all()
                thread.do(manager.__aexit__(None, None, None))

    def __enter__(self) -> Engine:
        if self._thread is not None:
            raise Conflict("this engine is open already")
        thread = _LoopThread()
        thread.__enter__()
        try:
            thread.do(self._inner.__aenter__())
        except BaseException:
            thread.__exit__()
            raise
        self._thread = thread
        return self

    def __exit__(self, *error: object) -> None:
        thread, self._thread = self._thread, None
        assert thread is not None
        try:
            thread.cancel_all()
            thread.do(self._inner.__aexit__())
        finally:
            thread.__exit__()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        if self._thread is None:
            work.close()
            raise Unavailable("the engine is not open: use it in a `with` block")
        return self._thread.do(work)

    # Images

    def pull(self, reference: str, *, platform: str | None = None, auth: AuthConfig | None = None) -> None:
        self._do(self._inner.pull(reference, platform=platform, auth=auth))

    def load(self, path: str) -> list[str]:
        return self._do(self._inner.load(path))

    def save(self, references: Sequence[str], path: str) -> None:
        self._do(self._inner.save(references, path))

    def import_image(self, path: str, reference: str, *, changes: Sequence[str] = ()) -> str:
        return self._do(self._inner.import_image(path, reference, changes=changes))

    def images(self) -> list[ImageSummary]:
        return self._do(self._inner.images())

    def remove_image(self, reference: str, *, force: bool = False) -> None:
        self._do(self._inner.remove_image(reference, force=force))

    # Containers

    def run(
        self, image: str, command: Sequence[str] = (), *, input: bytes = b"", **options: Unpack[Options]
    ) -> Result:
        return self._do(self._inner.run(image, command, input=input, **options))

    def start(self, image: str, command: Sequence[str] = (), **options: Unpack[Options]) -> Container:
        return Container(self._do, self._do(self._inner.start(image, command, **options)))

    def container(self, reference: str) -> Container:
        async def find() -> AsyncContainer:
            return self._inner.container(reference)

        return Container(self._do, self._do(find()))

    def containers(self, *, all: bool = False) -> list[ContainerSummary]:
        return self._do(self._inner.containers(all=all))

    # Networks

    def create_network(
        self,
        name: str,
        *,
        driver: str = "bridge",
        subnets: Sequence[str] = (),
        ipv6: bool = False,
        internal: bool = False,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Network:
        work = self._inner.create_network(
            name,
            driver=driver,
            subnets=subnets,
            ipv6=ipv6,
            internal=internal,
            options=options,
            labels=labels,
        )
        return Network(self._do, self._do(work))

    def network(self, reference: str) -> Network:
        return Network(self._do, self._do(self._inner.network(reference)))

    def networks(self) -> list[NetworkResource]:
        return self._do(self._inner.networks())

    # Volumes

    def volumes(self) -> list[Volume]:
        return self._do(self._inner.volumes())

    def create_volume(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Volume:
        return self._do(self._inner.create_volume(name, driver=driver, options=options, labels=labels))

    def remove_volume(self, name: str, *, force: bool = False) -> None:
        self._do(self._inner.remove_volume(name, force=force))


class Container:
    """A container that was started, or found. As a context manager it is removed, running or not, at the end."""

    def __init__(self, do: Do, inner: AsyncContainer) -> None:
        self._do = do
        self.inner = inner
        self.id = inner.id

    def __repr__(self) -> str:
        return repr(self.inner)

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self.inner.__aexit__(*error))

    def exec(
        self,
        command: Sequence[str],
        *,
        input: bytes = b"",
        user: str = "",
        env: Mapping[str, str] | None = None,
        working_dir: str = "",
    ) -> Result:
        return self._do(self.inner.exec(command, input=input, user=user, env=env, working_dir=working_dir))

    def logs(self, *, follow: bool = False, tail: int | None = None) -> Iterator[bytes]:
        stream = self.inner.logs(follow=follow, tail=tail)

        async def following() -> bytes | None:
            return await anext(stream, None)

        try:
            while (piece := self._do(following())) is not None:
                yield piece
        finally:
            self._do(stream.aclose())

    def wait(self) -> int:
        return self._do(self.inner.wait())

    def stop(self, *, timeout_s: int | None = None) -> None:
        self._do(self.inner.stop(timeout_s=timeout_s))

    def ports(self) -> dict[str, list[PortBinding] | None]:
        return self._do(self.inner.ports())

    def publish(self, ports: Mapping[str, str]) -> dict[str, list[PortBinding] | None]:
        return self._do(self.inner.publish(ports))

    def withdraw(self, port: str, *, host_ip: str = "", host_port: str = "") -> None:
        self._do(self.inner.withdraw(port, host_ip=host_ip, host_port=host_port))

    def remove(self, *, force: bool = False) -> None:
        self._do(self.inner.remove(force=force))

    def add_mount(self, source: str, target: str, *, read_only: bool = False) -> None:
        self._do(self.inner.add_mount(source, target, read_only=read_only))

    def remove_mount(self, target: str, *, force: bool = False) -> None:
        self._do(self.inner.remove_mount(target, force=force))

    def inspect(self) -> ContainerInspect:
        return self._do(self.inner.inspect())


class Network:
    """A network that was made, or found. As a context manager it is removed at the end, when nobody is on it."""

    def __init__(self, do: Do, inner: AsyncNetwork) -> None:
        self._do = do
        self._inner = inner
        self.id = inner.id

    def __repr__(self) -> str:
        return repr(self._inner)

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *error: object) -> None:
        self._do(self._inner.__aexit__(*error))

    def connect(
        self, container: Container, *, ip: str = "", ip6: str = "", aliases: Sequence[str] = ()
    ) -> None:
        self._do(self._inner.connect(container.inner, ip=ip, ip6=ip6, aliases=aliases))

    def disconnect(self, container: Container) -> None:
        self._do(self._inner.disconnect(container.inner))

    def remove(self) -> None:
        self._do(self._inner.remove())

    def inspect(self) -> NetworkResource:
        return self._do(self._inner.inspect())


class Do(Protocol):
    """Runs a coroutine on the engine's loop, and waits for it."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T: ...


class _LoopThread:
    """An event loop on a thread of its own, and the calls that wait for it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wherry-engine", daemon=True)
        self._calls: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> _LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The coroutine's result. When the wait for it is interrupted, it is cancelled and ends before we go on."""
        tasks: set[asyncio.Task[Any]] = set()

        async def called() -> T:
            task = asyncio.ensure_future(work)
            tasks.add(task)
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            return await task

        call = asyncio.run_coroutine_threadsafe(called(), self._loop)
        try:
            return call.result()
        except concurrent.futures.CancelledError as exc:
            raise Unavailable("the engine was closed meanwhile") from exc
        except BaseException:
            if not call.done():  # it is not the work's exception: Ctrl-C
                self._cancel(tasks)
            raise

    def cancel_all(self) -> None:
        """Cancel every call under way, and wait until what each began is undone."""
        self._cancel(self._calls)

    def _cancel(self, tasks: set[asyncio.Task[Any]]) -> None:
        async def cancel() -> None:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(set(tasks))

        asyncio.run_coroutine_threadsafe(cancel(), self._loop).result()
