"""The real docker CLI and docker-py against the API over a fake engine: what they need of connections and framing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import docker
from tests.fakes.engine import BULK
from tests.unit.api.conftest import Server

needs_cli = pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not on PATH")


async def cli(server: Server, *args: str, stdin: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Run docker; without `stdin` its input is at its end."""
    process = await asyncio.create_subprocess_exec(
        "docker",
        *args,
        env={
            **os.environ,
            "DOCKER_HOST": f"unix://{server.path}",
            "DOCKER_CONFIG": os.path.dirname(server.path),
        },
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin)
    except TimeoutError:
        process.kill()
        raise
    assert process.returncode is not None
    return process.returncode, out, err


@needs_cli
async def test_run_in_the_foreground(server: Server) -> None:
    assert await cli(server, "run", "x", "hello") == (0, b"hello\n", b"")
    assert await cli(server, "run", "x", "fail") == (7, b"", b"oops\n")


@needs_cli
async def test_run_with_stdin(server: Server) -> None:
    data = os.urandom(1_000_000)
    assert await cli(server, "run", "-i", "x", "cat", stdin=data) == (0, data, b"")


@needs_cli
async def test_run_detached(server: Server) -> None:
    code, out, _ = await cli(server, "run", "-d", "--name", "web", "x", "hello")
    assert (code, out.decode().strip()) == (0, server.engine.containers.find("web").id)


@needs_cli
async def test_run_of_a_missing_image_pulls_it(server: Server) -> None:
    code, _, err = await cli(server, "run", "missing")
    assert code == 125
    assert b"pull access denied" in err


@needs_cli
async def test_exec(server: Server) -> None:
    web = server.engine.containers.add("web")
    web.is_started = True
    code, out, _ = await cli(server, "exec", "-i", "web", "cat", stdin=b"abc")
    assert (code, out) == (3, b"abc")  # 3 is what the fake's inspect says
    assert (await cli(server, "exec", "-d", "web", "cat"))[0] == 0


@needs_cli
async def test_exec_carries_much_both_ways(server: Server) -> None:
    web = server.engine.containers.add("web")
    web.is_started = True
    data = os.urandom(20_000_000)
    _, out, _ = await cli(server, "exec", "-i", "web", "sink", stdin=data)
    assert out.decode() == hashlib.sha256(data).hexdigest()
    _, out, _ = await cli(server, "exec", "web", "source")
    assert len(out) == BULK


@needs_cli
async def test_wait(server: Server) -> None:
    web = server.engine.containers.add("web")
    asked = asyncio.ensure_future(cli(server, "wait", "web"))
    await server.engine.until_noted("wait")
    web.exit.set_result(5)
    assert await asked == (0, b"5\n", b"")


@needs_cli
async def test_plain_commands(server: Server) -> None:
    server.engine.containers.add("web")
    for command in (
        "ps",
        "version",
        "images",
        "stop web",
        "kill web",
        "restart web",
        "rename web w2",
        "rm w2",
    ):
        code, _, err = await cli(server, *command.split())
        assert code == 0, (command, err)


@needs_cli
async def test_logs_and_pull(server: Server) -> None:
    server.engine.containers.add("web")
    assert await cli(server, "logs", "web") == (0, b"one\ntwo\n", b"")
    assert (await cli(server, "pull", "x"))[0] == 0
    code, _, err = await cli(server, "pull", "breaks")
    assert (code, err) == (1, b"digest does not match\n")


@needs_cli
async def test_old_versions_work(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_API_VERSION", "1.30")
    assert await cli(server, "run", "x", "hello") == (0, b"hello\n", b"")
    monkeypatch.setenv("DOCKER_API_VERSION", "1.24")
    assert (await cli(server, "ps"))[0] == 0


# docker-py


@pytest_asyncio.fixture
async def sdk(server: Server) -> AsyncIterator[Any]:
    client = await asyncio.to_thread(docker.DockerClient, base_url=f"unix://{server.path}", version="auto")
    yield client
    client.close()


async def test_sdk_exec_output_on_a_pooled_connection(server: Server, sdk: Any) -> None:
    server.engine.containers.add("web").is_started = True

    def work() -> list[Any]:
        web = sdk.containers.get("web")
        return [web.exec_run("hello") for _ in range(5)]

    for result in await asyncio.to_thread(work):
        assert (result.exit_code, result.output) == (3, b"hello\n")


async def test_sdk_attach_socket_carries_stdin(server: Server, sdk: Any) -> None:
    server.engine.containers.add("run-cat")

    def work() -> bytes:
        sdk.ping()
        sock = sdk.api.attach_socket("run-cat", params={"stdin": 1, "stdout": 1, "stream": 1})
        sock._sock.sendall(b"abc")
        data = b""
        while len(data) < 11:
            data += sock._sock.recv(100)
        sock.close()
        return data

    assert await asyncio.to_thread(work) == b"\x01\0\0\0\0\0\0\x03abc"


async def test_sdk_attach_stream(server: Server, sdk: Any) -> None:
    web = server.engine.containers.add("web")

    def work() -> bytes:
        sdk.ping()
        container = sdk.containers.get("web")
        stream = container.attach(stream=True, stdout=True)
        container.start()
        return b"".join(stream)

    assert await asyncio.to_thread(work) == b"hello\n"
    assert web.is_started


async def test_sdk_wait_logs_events_pull(server: Server, sdk: Any) -> None:
    web = server.engine.containers.add("web")

    def work() -> Any:
        container = sdk.containers.get("web")
        events = sdk.events(decode=True)
        server_loop.call_soon_threadsafe(server.engine.events.emit, "container", "start")
        first = next(events)
        events.close()
        server_loop.call_soon_threadsafe(web.exit.set_result, 4)
        return first["Action"], container.wait(), container.logs(), list(sdk.api.pull("x", stream=True))

    server_loop = asyncio.get_running_loop()
    action, waited, logs, pulled = await asyncio.to_thread(work)
    assert (action, waited, logs) == ("start", {"StatusCode": 4}, b"one\ntwo\n")
    assert len(pulled) == 2


async def test_sdk_sees_dockers_errors(server: Server, sdk: Any) -> None:
    def work() -> None:
        with pytest.raises(docker.errors.NotFound, match="No such container: none"):
            sdk.containers.get("none")
        with pytest.raises(docker.errors.NotFound):
            sdk.api.attach("none")
        with pytest.raises(docker.errors.ImageNotFound):
            sdk.images.get("missing")

    await asyncio.to_thread(work)
