"""`stats`: shape and arithmetic beside Docker's, and what ends a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

import docker as sdk
from tests.docker.engine import Engine
from tests.docker.test_cli_beside_docker import WherryClient
from tests.docker.test_containers import run

BURN = "while :; do :; done"


def shape(value: object) -> object:
    """What kind of value is where: numbers and texts alike."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value and not isinstance(value[0], dict) else []
    return type(value).__name__


CPU = {
    "cpu_usage": {"total_usage": "int", "percpu_usage": ["int"], "usage_in_kernelmode": "int", "usage_in_usermode": "int"},
    "system_cpu_usage": "int", "online_cpus": "int",
    "throttling_data": {"periods": "int", "throttled_periods": "int", "throttled_time": "int"},
}  # fmt: skip
NO_CPU = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
BLOCK = [
    f"{name}_recursive"
    for name in "io_service_bytes io_serviced io_queue io_service_time io_wait_time io_merged io_time sectors".split()
]
INTERFACE = {f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")}


def stats(engine: Engine, name: str, **query: object) -> dict[str, object]:
    return engine.api("GET", f"/containers/{name}/stats", **{"stream": "0", **query}).expect(200).json


def test_a_running_container_has_dockers_fields(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "1000", options=("-m", "64m"))
    found = stats(engine, name)
    is_v1 = "percpu_usage" in found["cpu_stats"]["cpu_usage"]  # type: ignore[index]
    assert found["name"] == f"/{name}" and len(str(found["id"])) == 64
    assert str(found["preread"]) < str(found["read"]) and str(found["preread"]) > "2"
    memory = dict(found["memory_stats"])  # type: ignore[call-overload]
    assert memory["limit"] == 64 << 20 and 0 < memory["usage"] < 64 << 20
    assert set(memory) - {"failcnt"} == {"usage", "stats", "limit"} | ({"max_usage"} if is_v1 else set())
    assert set(found["networks"]) == {"eth0"} and set(found["networks"]["eth0"]) == INTERFACE  # type: ignore[arg-type,index]
    assert found["pids_stats"]["current"] == 1  # type: ignore[index]
    assert list(found["blkio_stats"]) == BLOCK and found["num_procs"] == 0 and found["storage_stats"] == {}  # type: ignore[call-overload]
    if is_v1:
        assert shape(found["cpu_stats"]) == CPU and shape(found["precpu_stats"]) == CPU
        assert len(memory["stats"]) == 32 and memory["stats"]["hierarchical_memory_limit"] == 64 << 20


def test_one_shot_has_no_reading_before_it(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "1000")
    found = stats(engine, name, **{"one-shot": "1"})
    assert found["precpu_stats"] == NO_CPU and found["preread"] == "0001-01-01T00:00:00Z"
    assert found["cpu_stats"]["system_cpu_usage"]  # type: ignore[index]
    asked = engine.api("GET", f"/containers/{name}/stats", stream="1", **{"one-shot": "1"})
    assert asked.expect(400).message == "cannot have stream=true and one-shot=true"
    assert engine.api("GET", "/containers/nope/stats").expect(404).message == "No such container: nope"


def test_a_container_that_does_not_run_is_all_zero(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", "true").ok()
    found = stats(engine, name)
    assert found["cpu_stats"] == found["precpu_stats"] == NO_CPU
    assert (found["memory_stats"], found["pids_stats"]) == ({}, {}) and "networks" not in found
    assert found["blkio_stats"] == dict.fromkeys(BLOCK)
    assert found["read"] == found["preread"] == "0001-01-01T00:00:00Z"
    stream = engine.stream("GET", f"/containers/{name}/stats")
    for _ in range(2):
        assert json.loads(stream.readline())["name"] == f"/{name}"
    stream.close()


def test_networks_by_kind(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "1000")
    run(engine, f"{name}-host", "sleep", "1000", options=("--network", "host"))
    run(engine, f"{name}-none", "sleep", "1000", options=("--network", "none"))
    run(engine, f"{name}-joined", "sleep", "1000", options=("--network", f"container:{name}"))
    engine.docker("exec", f"{name}-joined", "ping", "-c", "3", "-i", "0.01", gateway(engine, name)).ok()
    assert stats(engine, name)["networks"]["eth0"]["tx_bytes"] >= 3 * 98  # type: ignore[index]
    assert stats(engine, f"{name}-joined")["networks"]["eth0"]["tx_packets"] >= 3  # type: ignore[index]
    assert "networks" not in stats(engine, f"{name}-host")
    assert "networks" not in stats(engine, f"{name}-none")


def gateway(engine: Engine, name: str) -> str:
    return engine.docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.Gateway}}", name).ok().line


def test_cpu_is_what_the_limit_lets_through(engine: Engine, name: str) -> None:
    run(engine, name, "sh", "-c", BURN, options=("--cpus", "0.2"))
    deadline = time.monotonic() + 60
    while True:
        line = engine.docker("stats", "--no-stream", "--format", "{{.CPUPerc}}", name).ok().line
        percent = float(line.rstrip("%"))
        assert percent < 40
        if percent > 2:
            break
        assert time.monotonic() < deadline, line
    assert stats(engine, name)["cpu_stats"]["throttling_data"]["throttled_periods"]  # type: ignore[index]


def test_memory_without_the_cache_that_is_given_back(engine: Engine, name: str) -> None:
    command = "dd if=/dev/zero of=/file bs=1M count=16 2>/dev/null; sync; echo ready; sleep 1000"
    engine.docker("run", "-d", "--name", name, "-m", "64m", "busybox", "sh", "-c", command).ok()
    with engine.popen("logs", "-f", name) as logs:
        assert logs.stdout is not None and logs.stdout.readline() == b"ready\n"
        logs.kill()
    usage = engine.docker("stats", "--no-stream", "--format", "{{.MemUsage}}", name).ok().line
    assert usage.endswith("/ 64MiB") and ("KiB" in usage or float(usage.split("MiB")[0]) < 12)


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_a_stream_goes_on_while_the_container_stops_and_starts(engine: Engine, name: str, how: str) -> None:
    run(engine, name, "sleep", "1000")
    stream = engine.stream("GET", f"/containers/{name}/stats")
    assert json.loads(stream.readline())["pids_stats"]["current"] == 1
    if how == "pause":
        engine.docker("pause", name).ok()
        assert json.loads(stream.readline())["pids_stats"]["current"] == 1
        engine.docker("unpause", name).ok()
    else:
        engine.docker("stop", "-t", "0", name).ok()
        until(stream, lambda found: found["pids_stats"] == {})
        engine.docker("start", name).ok()
        until(stream, lambda found: found["pids_stats"].get("current") == 1)
    stream.close()


def until(stream: object, holds: object) -> None:
    for _ in range(30):
        if holds(json.loads(stream.readline())):  # type: ignore[operator,attr-defined]
            return
    pytest.fail("not within 30 readings")


def test_a_removed_container_ends_its_stream(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "1000")
    stream = engine.stream("GET", f"/containers/{name}/stats")
    stream.readline()
    engine.docker("rm", "-f", name).ok()
    while stream.readline():
        pass
    with engine.popen("stats", f"{name}-2") as follow:
        assert follow.wait(30) == 1


def test_docker_py_reads_both_forms(engine: Engine, name: str) -> None:
    run(engine, name, "sleep", "1000")
    client = sdk.DockerClient(base_url=engine.host)
    container = client.containers.get(name)
    assert container.stats(stream=False)["precpu_stats"]["system_cpu_usage"]
    readings: Iterator[dict[str, object]] = container.stats(decode=True)
    assert [next(readings)["name"] for _ in range(2)] == [f"/{name}"] * 2
    client.close()


def test_the_cli_of_ours_prints_what_docker_prints(wherry: Engine, name: str) -> None:
    run(wherry, name, "sleep", "1000")
    wherry.docker("create", "--name", f"{name}-2", "busybox").ok()
    ours = WherryClient(wherry.socket_path)
    watching = wherry.stream("GET", f"/containers/{name}/stats")
    for _ in range(2):
        watching.readline()  # while somebody watches, nobody else has to wait for a second reading
    for line in (
        ("--no-stream", name, f"{name}-2"), ("--no-stream", "--no-trunc", name), ("--no-stream", "nope"),
        ("--no-stream", "--format", "json", name), ("--no-stream", name, "nope"),
        ("--no-stream", "--format", "table {{.Name}}\t{{.PIDs}}\t{{.MemPerc}}", name),
        ("--no-stream", "--format", "{{.Container}} {{.ID}} {{.CPUPerc}} {{.NetIO}} {{.BlockIO}}", name, f"{name}-2"),
    ):  # fmt: skip
        for attempt in range(10):  # a byte of network or memory may come in between
            theirs, own = wherry.docker("stats", *line), ours.docker("stats", *line)
            if (own.code, own.out, own.err) == (theirs.code, theirs.out, theirs.err):
                break
            assert attempt < 9, (line, own, theirs)
    watching.close()


def test_the_table_of_ours_is_drawn_anew_and_follows_events(wherry: Engine, name: str) -> None:
    ours = WherryClient(wherry.socket_path)
    run(wherry, name, "sleep", "1000")
    terminal = ours.terminal("stats", cols=200)
    terminal.until(name.encode(), 30)
    run(wherry, f"{name}-two", "sleep", "1000")
    terminal.until(f"{name}-two".encode(), 30)
    terminal.send(b"\x03")
    terminal.wait()
