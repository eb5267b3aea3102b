"""docker-py, which takes the newest shapes the engine offers and has streams of its own making."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import docker.errors
import pytest

import docker
from tests.docker import rootfs
from tests.docker.engine import Engine


@pytest.fixture
def sdk(engine: Engine) -> Iterator[Any]:
    client = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
    yield client
    client.close()


def test_ping_version_and_info(sdk: Any) -> None:
    assert sdk.ping() is True
    assert sdk.version()["ApiVersion"] == "1.51"
    info = sdk.info()
    for key in (
        "ID",
        "Driver",
        "DriverStatus",
        "Plugins",
        "MemTotal",
        "NCPU",
        "Runtimes",
        "Swarm",
        "RegistryConfig",
    ):
        assert info[key] is not None, key


def test_run_returns_output_and_raises_for_failure(sdk: Any) -> None:
    assert sdk.containers.run("busybox", ["echo", "hello"], remove=True) == b"hello\n"
    assert sdk.containers.run("busybox", ["sh", "-c", "echo a; echo b >&2"], remove=True, stderr=True) in (
        b"a\nb\n",
        b"b\na\n",
    )
    with pytest.raises(docker.errors.ContainerError) as failed:
        sdk.containers.run("busybox", ["sh", "-c", "echo why >&2; exit 3"], remove=True)
    assert (failed.value.exit_status, failed.value.stderr) == (3, b"why\n")
    with pytest.raises(docker.errors.ImageNotFound):
        sdk.images.get("no-such-image")
    with pytest.raises(docker.errors.NotFound):
        sdk.containers.get("no-such-container")


def test_life_of_a_container(sdk: Any, name: str) -> None:
    container = sdk.containers.run(
        "busybox", ["sleep", "300"], name=name, detach=True, labels={"a": "b"}, environment={"A": "1"},
        mem_limit="64m", tmpfs={"/t": ""}, cap_drop=["ALL"], hostname="box", working_dir="/tmp", network_mode="none",
    )  # fmt: skip
    assert container.status in ("created", "running")
    container.reload()
    assert container.status == "running" and container.labels == {"a": "b"} and container.name == name
    assert container.short_id == container.id[:12]
    assert [c.id for c in sdk.containers.list(filters={"label": "a=b"})] == [container.id]
    assert container.top()["Titles"]
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.rename(f"{name}-new")
    container.restart(timeout=0)
    container.kill()
    assert container.wait()["StatusCode"] == 137
    container.remove()
    assert sdk.containers.list(all=True, filters={"label": "a=b"}) == []


def test_exec(sdk: Any, name: str) -> None:
    container = sdk.containers.run("busybox", ["sleep", "300"], name=name, detach=True)
    assert container.exec_run(["sh", "-c", "echo out; exit 4"]) == (4, b"out\n")
    code, (out, err) = container.exec_run(["sh", "-c", "echo out; echo err >&2"], demux=True)
    assert (code, out, err) == (0, b"out\n", b"err\n")
    _, stream = container.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True)
    assert b"".join(stream) == b"1\n2\n3\n"
    _, sock = container.exec_run(["cat"], stdin=True, socket=True)
    sock._sock.sendall(b"typed")
    sock._sock.shutdown(1)
    assert sock.read(13) == b"\x01\0\0\0\0\0\0\x05typed"
    sock.close()
    detached = sdk.api.exec_create(name, ["sleep", "5"])["Id"]
    sdk.api.exec_start(detached, detach=True)
    assert sdk.api.exec_inspect(detached)["Running"] is True
    sdk.api.exec_resize(sdk_tty_exec(sdk, name), height=10, width=20)


def sdk_tty_exec(sdk: Any, name: str) -> str:
    identity = sdk.api.exec_create(name, ["sleep", "5"], tty=True)["Id"]
    sdk.api.exec_start(identity, tty=True, detach=True)
    return str(identity)


def test_logs(sdk: Any, name: str) -> None:
    container = sdk.containers.run(
        "busybox", ["sh", "-c", "echo one; echo two >&2; echo three"], name=name, detach=True
    )
    container.wait()
    assert container.logs(stderr=False) == b"one\nthree\n"
    assert container.logs(stdout=False) == b"two\n"
    assert b"".join(container.logs(stream=True, follow=True, stderr=False)) == b"one\nthree\n"
    assert container.logs(timestamps=True, stderr=False).count(b"Z ") == 2


def test_attach(sdk: Any, name: str) -> None:
    container = sdk.containers.create("busybox", ["cat"], name=name, stdin_open=True)
    sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    container.start()
    sock._sock.sendall(b"hello\n")
    assert sock.read(14) == b"\x01\0\0\0\0\0\0\x06hello\n"
    sock.close()
    container.kill()


def test_images(sdk: Any, name: str, clean: None) -> None:
    layer = rootfs.busybox_tar()
    archive = rootfs.docker_archive(rootfs.image_config([layer], Labels={"x": name}), [layer], f"{name}:1")
    (image,) = sdk.images.load(archive)
    assert image.tags == [f"{name}:1"] and image.labels == {"x": name}
    assert image.tag(name, "2") is True
    image.reload()
    assert sorted(image.tags) == [f"{name}:1", f"{name}:2"]
    assert [i.id for i in sdk.images.list(filters={"label": f"x={name}"})] == [image.id]
    assert len(image.history()) == 1
    saved = io.BytesIO(b"".join(image.save(named=True)))
    assert saved.getbuffer().nbytes > len(layer) // 2
    sdk.images.remove(f"{name}:1")
    sdk.images.remove(f"{name}:2")
    with pytest.raises(docker.errors.ImageNotFound):
        sdk.images.get(f"{name}:1")


def test_pull_and_its_progress(sdk: Any, registry: Any, name: str, clean: None) -> None:
    registry.put_image(name, "latest", [rootfs.busybox_tar(), rootfs.tar([("x", name.encode())])])
    lines = list(sdk.api.pull(f"{registry.address}/{name}", stream=True, decode=True))
    assert lines[-1]["status"].startswith("Status: Downloaded newer image for")
    assert all("status" in line for line in lines)
    assert {line["status"] for line in lines if "id" in line} >= {"Pulling fs layer", "Pull complete"}
    assert sdk.images.pull(f"{registry.address}/{name}").tags == [f"{registry.address}/{name}:latest"]
    with pytest.raises(docker.errors.NotFound):
        sdk.images.pull(f"{registry.address}/{name}", tag="nosuch")


def test_import(sdk: Any, name: str, clean: None) -> None:
    answer = json.loads(
        sdk.api.import_image_from_data(rootfs.busybox_tar(), repository=name, tag="1").splitlines()[-1]
    )
    assert answer["status"].startswith("sha256:")
    assert sdk.containers.run(f"{name}:1", ["echo", "ok"], remove=True) == b"ok\n"


def test_events(sdk: Any, name: str) -> None:
    stream = sdk.events(decode=True, filters={"container": name})
    sdk.containers.run("busybox", ["true"], name=name)
    actions = []
    for event in stream:
        actions.append(event["Action"])
        if event["Action"] == "die":
            break
    stream.close()
    assert actions[0] == "create" and "start" in actions
