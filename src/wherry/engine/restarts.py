"""Who starts a container again: Docker's restart policies, after an exit and when an engine is opened.

What to do is decided by plain functions over policy and state; `Restarts` keeps the timers. A restart that is to come
is written down as the status `restarting` in the same transaction as the exit before it, so that a daemon that dies in
between leaves it to the next one, which makes up for it at once.

Times are Docker's: 100 ms before the first restart, doubled by each further one up to a minute, and again from the
beginning once a container has been up for ten seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from wherry.engine.context import Context
from wherry.engine.records import Container, ContainerRecord, ContainerState
from wherry.errors import WherryError
from wherry.model.containers import RestartPolicy

_log = logging.getLogger(__name__)

FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 60.0
SETTLED_S = 10.0
"""Up for so long, a container is not taken for one that fails again and again."""
STARTS_AT_ONCE = 8
"""Containers that an engine starts side by side when it is opened."""

DEPENDS_ON = "com.docker.compose.depends_on"
PROJECT, SERVICE = "com.docker.compose.project", "com.docker.compose.service"


def next_delay(before_s: float, lived_s: float) -> float:
    """Seconds to wait before a restart, when the last one had waited `before_s` (0: there was none)."""
    if not before_s or lived_s >= SETTLED_S:
        return FIRST_DELAY_S
    return min(before_s * 2, LONGEST_DELAY_S)


def wants_restart(policy: RestartPolicy, *, exit_code: int, count: int, is_stopped: bool) -> bool:
    """Whether the policy starts a container again that has ended; `count` restarts were made already.

    `is_stopped`: somebody asked for its end. It is only for `unless-stopped` that this matters here: an engine that
    is opened starts what has the policy `always` though it was stopped.
    """
    match policy.name:
        case "always":
            return True
        case "unless-stopped":
            return not is_stopped
        case "on-failure":
            most = policy.maximum_retry_count
            return exit_code != 0 and (not most or count < most)
        case _:
            return False


def revives(policy: RestartPolicy, state: ContainerState) -> bool:
    """Whether an engine that is opened starts this container, which does not run. One never started stays so."""
    return state.status == "exited" and wants_restart(
        policy,
        exit_code=state.exit_code,
        count=state.restart_count,
        is_stopped=state.is_manually_stopped,
    )


class Restarts:
    """The restarts to come. Until `open`, none is made: an engine that recovers needs all its parts first.

    `start` makes one, for a container in `restarting`; it raises nothing.
    """

    def __init__(self, context: Context, start: Callable[[Container], Awaitable[None]]) -> None:
        self._context = context
        self._start = start
        self._waiting: dict[str, asyncio.TimerHandle] = {}
        self._is_open = False

    def schedule(self, container: Container) -> None:
        """The container, which is `restarting`, starts after its delay."""
        if self._is_open:
            self.cancel(container)
            loop = asyncio.get_running_loop()
            self._waiting[container.id] = loop.call_later(container.state.backoff_s, self._due, container)

    def cancel(self, container: Container) -> None:
        waiting = self._waiting.pop(container.id, None)
        if waiting is not None:
            waiting.cancel()

    def _due(self, container: Container) -> None:
        self._waiting.pop(container.id, None)

        async def start() -> None:
            await self._start(container)

        self._context.spawn(start())

    def open(self) -> None:
        """From now on restarts are made in time."""
        self._is_open = True

    def close(self) -> None:
        """What is still to come is left to the next engine."""
        self._is_open = False
        for waiting in self._waiting.values():
            waiting.cancel()
        self._waiting.clear()

    async def start_all(self, chosen: Sequence[Container], others: Iterable[Container]) -> None:
        """Start those `chosen` now, each after what it depends on; `others` are the engine's, chosen or not."""
        order = in_order([container.record for container in chosen], [other.record for other in others])
        by_id = {container.id: container for container in chosen}
        done = {container_id: asyncio.Event() for container_id in order}
        room = asyncio.Semaphore(STARTS_AT_ONCE)

        async def start(container_id: str, needed: Iterable[str]) -> None:
            try:
                for other in needed:
                    await done[other].wait()
                async with room:
                    await self._start(by_id[container_id])
            except (WherryError, OSError) as exc:
                _log.error("container %s could not be started again: %s", container_id, exc)
            finally:
                done[container_id].set()

        await asyncio.gather(*(start(container_id, needed) for container_id, needed in order.items()))


def dependencies(record: ContainerRecord, others: Iterable[ContainerRecord]) -> set[str]:
    """IDs of the containers that have to start before this one: those whose namespaces it joins, whose volumes it
    takes, that it is linked to, or that Compose wrote down as what it depends on."""
    host, labels = record.host, record.config.labels or {}
    modes = (host.network_mode, host.ipc_mode, host.pid_mode)
    named = {mode.removeprefix("container:") for mode in modes if mode.startswith("container:")}
    named |= {text.partition(":")[0] for text in host.volumes_from or ()}
    services = {item.partition(":")[0] for item in labels.get(DEPENDS_ON, "").split(",") if item}
    found = set(record.links.values())
    for other in others:
        theirs = other.config.labels or {}
        is_named = any(text in (other.id, other.name, other.id[:12]) for text in named)
        if is_named or (theirs.get(SERVICE) in services and theirs.get(PROJECT) == labels.get(PROJECT)):
            found.add(other.id)
    return found - {record.id}


def in_order(
    chosen: Sequence[ContainerRecord], others: Sequence[ContainerRecord]
) -> Mapping[str, Sequence[str]]:
    """The IDs of the chosen, each after those of them that it depends on, which are its value.

    Where containers depend on each other in a circle, it is broken at one of them: somebody has to be first.
    """
    needs = {record.id: dependencies(record, others) for record in chosen}
    order: dict[str, Sequence[str]] = {}
    under_way: set[str] = set()

    def visit(container_id: str) -> None:
        under_way.add(container_id)
        for other in sorted(needs[container_id]):
            if other in needs and other not in order and other not in under_way:
                visit(other)
        order[container_id] = [other for other in sorted(needs[container_id]) if other in order]

    for record in chosen:
        if record.id not in order:
            visit(record.id)
    return order
