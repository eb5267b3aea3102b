"""A container as it is kept: what was asked for (`ContainerRecord`), what became of it (`ContainerState`), and both
together with what only a running engine has (`Container`).

Everything that changes a container's status goes through `ContainerState.become`, so that a step that is not in the
table of states.py cannot happen.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from wherry.engine.states import Status, may_follow
from wherry.errors import Internal
from wherry.model.containers import ContainerConfig, ContainerWaited, EndpointSettings, HostConfig
from wherry.network.driver import Endpoint
from wherry.network.ports import Publication

if TYPE_CHECKING:
    from wherry.engine.attach import EarlyClient
    from wherry.engine.execs import Exec
    from wherry.engine.stats import Meter
    from wherry.shim.client import Shim


def encode_row(value: ContainerRecord | ContainerState) -> bytes:
    """A record or state as its column of the `container` table."""
    return msgspec.json.encode(value)


class MountSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One mount the user asked for, decided. `options` are the runtime-spec's mount options.

    `source` is a bind's path, a volume's mountpoint on this host (for inspect) or an image's ID; `name` the volume's
    name (empty until it is made: an anonymous one) or the image as it was named. `driver_options` and `labels` are
    for a volume that is still to be made.
    """

    type: Literal["bind", "tmpfs", "volume", "image"]
    source: str = ""
    target: str
    options: tuple[str, ...] = ()
    mode: str = ""  # as typed behind the second colon of -v, for inspect
    read_only: bool = False
    propagation: str = ""
    create_source: bool = False
    is_mount_api: bool = False  # came by --mount: listed in HostConfig.Mounts
    name: str = ""
    driver: str = ""
    driver_options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    subpath: str = ""
    copies_up: bool = False  # what the image has at the target goes into the volume, if that is empty
    is_anonymous: bool = False  # goes with the container, by `rm -v` or --rm
    is_declared: bool = False  # by the image's VOLUME or by -v TARGET
    is_added: bool = False  # to a container that existed already
    snapshot: str = ""  # the key of an image mount's own layer
    chain_ids: tuple[str, ...] = ()


class ContainerRecord(msgspec.Struct, kw_only=True):
    """What was asked for. Written once, at create; only name and limits change later."""

    id: str
    name: str
    created_ns: int
    image_id: str  # empty for a container without image
    image_reference: str
    chain_ids: tuple[str, ...]
    config: ContainerConfig
    host: HostConfig
    endpoints: dict[str, EndpointSettings]  # by network name, or as given where there was no such network yet
    mounts: tuple[MountSpec, ...] = ()
    links: dict[str, str] = {}  # legacy links: IDs of containers by what this one calls them
    snapshot_driver: str
    path: str
    args: tuple[str, ...]
    platform: str = "linux"


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """One probe of a container's health. `code` is -1 where it did not come to an end of its own."""

    start_ns: int
    end_ns: int
    code: int
    output: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes said; `log` has the last five."""

    status: Literal["starting", "healthy", "unhealthy"] = "starting"
    failing_streak: int = 0
    log: tuple[Probed, ...] = ()


class ContainerState(msgspec.Struct, kw_only=True):
    """What became of it. Written at every step that a client is told of."""

    status: Status = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    restart_count: int = 0
    backoff_s: float = 0.0  # what the last restart by policy waited; 0 begins a series
    is_manually_stopped: bool = False
    health: Health | None = None  # None: nothing is probed
    ports: tuple[Publication, ...] = ()  # published now
    endpoints: dict[str, Endpoint] = {}  # by network name, as in the record; empty while it does not run

    @property
    def is_running(self) -> bool:
        """There is a process."""
        return self.status in ("running", "paused")

    @property
    def is_active(self) -> bool:
        """There is a process, or will be again without anybody's doing. What Docker calls running."""
        return self.is_running or self.status == "restarting"

    def become(self, status: Status) -> None:
        """Take one step of the table in states.py."""
        if not may_follow(self.status, status):
            raise Internal(f"a container cannot go from {self.status} to {status}")
        self.status = status


Condition = Literal["not-running", "next-exit", "removed"]


class Waiter:
    """One client that waits for a container to end. Answered once, by whoever comes first."""

    def __init__(self, condition: Condition) -> None:
        self.condition: Condition = condition
        self.answer: asyncio.Future[ContainerWaited] = asyncio.get_running_loop().create_future()
        self.socket: socket.socket | None = None

    def settle(self, answer: ContainerWaited) -> None:
        if not self.answer.done():
            self.answer.set_result(answer)


class Container:
    """One container in memory. `lock` is held by whoever starts, stops, renames or removes it; reading needs none."""

    def __init__(self, record: ContainerRecord, state: ContainerState | None = None) -> None:
        self.record = record
        self.state = state or ContainerState()
        self.lock = asyncio.Lock()
        self.shim: Shim | None = None
        self.waiters: list[Waiter] = []
        self.early: list[EarlyClient] = []  # clients attached before the start
        self.execs: dict[str, Exec] = {}
        self.meter: Meter | None = None  # while it runs and somebody watches what it uses
        self.ended = asyncio.Event()  # set while no process runs and the exit is recorded
        if not self.state.is_running:
            self.ended.set()
        self.is_to_end = False  # somebody asked for its end: no policy holds until the next start by hand
        self.is_coming_back = False  # `docker restart` is at it: --rm does not take it away in between
        self.trace: list[tuple[str, float]] = []  # (step, ms since the start request)
        self._trace_start = 0.0

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    def begin_trace(self) -> None:
        self.trace = []
        self._trace_start = time.monotonic()

    def mark(self, step: str) -> None:
        self.trace.append((step, (time.monotonic() - self._trace_start) * 1000))

    def close_meter(self) -> None:
        if self.meter is not None:
            self.meter.close()
            self.meter = None

    def event_attributes(self) -> dict[str, str]:
        """What every event of this container carries: its labels, image and name."""
        return {
            **(self.record.config.labels or {}),
            "image": self.record.image_reference,
            "name": self.record.name,
        }
