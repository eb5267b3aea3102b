"""What is measured. Each row is a function that does its thing once on one engine; the time it takes is the sample."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable

from bench.engines import IMAGE, Daemon


def run(daemon: Daemon) -> None:
    daemon.docker("run", "--rm", IMAGE, "true").ok()


def run_no_network(daemon: Daemon) -> None:
    daemon.docker("run", "--rm", "--network", "none", IMAGE, "true").ok()


def exec_cli(daemon: Daemon) -> None:
    daemon.docker("exec", "bench-target", "true").ok()


def api_run(daemon: Daemon) -> None:
    """Create, start, wait until it is removed: interface, cgroup and address have been given back by then."""
    body = {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"AutoRemove": True}}
    identity = daemon.api("POST", "/containers/create", body).expect(201).json["Id"]
    waiting = daemon.stream("POST", f"/containers/{identity}/wait", condition="removed")
    daemon.api("POST", f"/containers/{identity}/start").expect(204)
    assert b'"StatusCode":0' in waiting.read()


def api_exec(daemon: Daemon) -> None:
    body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
    identity = daemon.api("POST", "/containers/bench-target/exec", body).expect(201).json["Id"]
    with daemon.hijack(f"/exec/{identity}/start", {"Detach": False}) as stream:
        stream.read_all()
    assert daemon.api("GET", f"/exec/{identity}/json").json["ExitCode"] == 0


def twenty_by_four(daemon: Daemon) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(run, daemon) for _ in range(20)]:
            done.result()


ROWS: dict[str, tuple[Callable[[Daemon], None], str, float]] = {
    # name: what does it, what it is called in the table, the ratio to reach (dockerd's time by ours)
    "run": (run, "docker run --rm busybox true", 6.0),
    "run-none": (run_no_network, "… --network none", 5.0),
    "exec": (exec_cli, "docker exec C true", 2.7),
    "api-run": (api_run, "API: create + start + wait + remove", 0.0),
    "api-exec": (api_exec, "API: exec + start + inspect", 0.0),
    "twenty": (twenty_by_four, "20 containers by 4 clients", 4.0),
}
"""The API rows have targets in milliseconds instead: 20 and 6."""

LIMITS_MS = {"api-run": 20.0, "api-exec": 6.0}


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000
