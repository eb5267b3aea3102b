"""What is timed, and what it should come to. A row does its thing once on one engine; that time is a sample.

Engines take turns within a row, in an order that turns round from one round to the next, so that whatever else the
machine does falls on all of them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from bench.engines import IMAGE, TARGET, Daemon, Engine, check_run

WARMUP = 2
"""Rounds that are not counted."""

LEAST = 3
"""Rounds of a row that are made even when time is running out."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """What a row should reach: the reference's median is `ratio` times ours, or ours is at most `limit`."""

    ratio: float = 0.0
    limit: float | None = None
    hoped: float = 0.0
    """The better value that was set as the aim, of the same kind."""


@dataclasses.dataclass
class Row:
    """A line of the result: samples by engine, in the unit."""

    name: str
    label: str
    unit: str
    samples: dict[str, list[float]]
    goal: Goal = Goal()
    ours: str = "wherry"
    reference: str = "dockerd"

    def median(self, engine: str) -> float | None:
        values = self.samples.get(engine)
        return statistics.median(values) if values else None

    def ratio(self) -> float | None:
        """How many times ours goes into the reference."""
        ours, theirs = self.median(self.ours), self.median(self.reference)
        return theirs / ours if ours and theirs is not None else None

    def is_met(self) -> bool | None:
        """None where there is no goal, or not enough was measured."""
        ours, ratio = self.median(self.ours), self.ratio()
        if self.goal.limit is not None:
            return None if ours is None else ours <= self.goal.limit
        if self.goal.ratio:
            return None if ratio is None else ratio >= self.goal.ratio
        return None


@dataclasses.dataclass(frozen=True)
class Timing:
    """A row to be measured: `action` on each of the engines `on` that are there."""

    name: str
    label: str
    action: Callable[[Engine], None]
    on: Sequence[str] = ("wherry", "dockerd")
    goal: Goal = Goal()
    ours: str = "wherry"
    reference: str = "dockerd"

    def measure(self, engines: Mapping[str, Engine], rounds: int, deadline: float) -> Row:
        chosen = [engines[name] for name in self.on if name in engines]
        samples: dict[str, list[float]] = {engine.name: [] for engine in chosen}
        for number in range(WARMUP + rounds):
            if time.monotonic() > deadline and number >= WARMUP + LEAST:
                break
            for engine in chosen if number % 2 else chosen[::-1]:
                took = timed(lambda engine=engine: self.action(engine))
                if number >= WARMUP:
                    samples[engine.name].append(took)
        return Row(self.name, self.label, "ms", samples, self.goal, self.ours, self.reference)


def timed(action: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


# What is done


def api_run(engine: Engine) -> None:
    """Create, start, wait until removed: interface, cgroup and address have been given back by then."""
    api = _daemon(engine).api
    identity = api.call("POST", "/containers/create", _container(auto_remove=True))["Id"]
    waiting = api.begin("POST", f"/containers/{identity}/wait?condition=removed")
    api.call("POST", f"/containers/{identity}/start")
    _check_exit(waiting.read())


def api_run_kept(engine: Engine) -> None:
    """The same for a container that is kept, so that every step must survive a power cut, and then removed."""
    api = _daemon(engine).api
    identity = api.call("POST", "/containers/create", _container(auto_remove=False))["Id"]
    waiting = api.begin("POST", f"/containers/{identity}/wait?condition=next-exit")
    api.call("POST", f"/containers/{identity}/start")
    _check_exit(waiting.read())
    api.call("DELETE", f"/containers/{identity}")


def api_exec(engine: Engine) -> None:
    """Create, start with its output, inspect."""
    api = _daemon(engine).api
    body = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
    identity = api.call("POST", f"/containers/{TARGET}/exec", body)["Id"]
    api.hijack(f"/exec/{identity}/start", {"Detach": False, "Tty": False})
    ended = api.call("GET", f"/exec/{identity}/json")
    if ended["ExitCode"] != 0:
        raise RuntimeError(f"exec ended with {ended['ExitCode']}")


def twenty(engine: Engine) -> None:
    """Four clients at once, each running five containers one after the other."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(lambda: [engine.run() for _ in range(5)]) for _ in range(4)]:
            done.result()


def ask_version(engine: Engine) -> None:
    _daemon(engine).docker("version", "--format", "{{.Server.Version}}")


def client_alone(engine: Engine) -> None:
    """The same command in both columns: how far they differ is the noise of this machine."""
    check_run(["docker", "--version"], env=_daemon(engine).environment)


def own_cli(engine: Engine) -> None:
    """wherry's command line in the place of docker's, on the same daemon; dockerd has but the one."""
    if engine.name == "wherry":
        daemon = _daemon(engine)
        check_run(
            [*OWN_CLI, "-H", daemon.environment["DOCKER_HOST"], "run", "--rm", IMAGE, "true"],
            env=daemon.environment,
        )
    else:
        engine.run()


OWN_CLI = [sys.executable, "-m", "wherry.cli"]


def _daemon(engine: Engine) -> Daemon:
    assert isinstance(engine, Daemon), f"{engine.name} has no API"
    return engine


def _container(*, auto_remove: bool) -> dict[str, object]:
    return {"Image": IMAGE, "Cmd": ["true"], "HostConfig": {"AutoRemove": auto_remove}}


def _check_exit(answer: bytes) -> None:
    if b'"StatusCode":0' not in answer:
        raise RuntimeError(f"wait answered {answer!r}")


TIMINGS = (
    Timing("run", "docker run --rm busybox true", lambda e: e.run(),
           ("wherry", "dockerd", "podman"), Goal(ratio=6, hoped=8)),
    Timing("run-none", "docker run --rm --network none busybox true", lambda e: e.run("--network", "none"),
           ("wherry", "dockerd", "podman"), Goal(ratio=5)),
    Timing("run-port", "docker run --rm -p 8080:80 busybox true", lambda e: e.run("-p", "8080:80"),
           ("wherry", "dockerd", "podman"), Goal(ratio=6)),
    Timing("exec", "docker exec C true", lambda e: e.exec(), ("wherry", "dockerd", "podman"), Goal(ratio=2.7)),
    Timing("api-run", "API: create, start, wait until removed", api_run, goal=Goal(limit=20, hoped=10)),
    Timing("api-kept", "API: create, start, wait, remove (no --rm)", api_run_kept),
    Timing("api-exec", "API: exec create, start, inspect", api_exec, goal=Goal(limit=6)),
    Timing("twenty", "20 × docker run --rm by 4 clients at once", twenty, goal=Goal(ratio=4)),
    Timing("own-cli", "wherry run --rm busybox true, against docker run", own_cli),
    Timing("version", "docker version --format … (asks the engine)", ask_version),
    Timing("client", "docker --version (asks nobody)", client_alone),
    Timing("bundle", "OCI runtime alone: run of a bundle", lambda e: e.run(),
           ("wherry-runtime", "runc", "crun"), ours="wherry-runtime", reference="runc"),
)  # fmt: skip
"""The table of what is timed. Goals come from the project's plan; where there is none, the row is for orientation."""
