"""Start-up is recovery: bring what the database says and what really is back together.

Every way an earlier daemon can have ended leads here, a clean stop too. Afterwards: each container whose process
lives is connected again; each that ended meanwhile has its exit recorded; what was half-made is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
import time

import msgspec

from wherry.engine import bundle
from wherry.engine.attach import answer_wait
from wherry.engine.connecting import Connecting
from wherry.engine.containers import CONDITIONS, Containers
from wherry.engine.context import Context
from wherry.engine.execs import Execs
from wherry.engine.lifecycle import send_away
from wherry.engine.records import Container, ContainerRecord, ContainerState, Waiter
from wherry.engine.restarts import revives
from wherry.engine.states import Status
from wherry.engine.volume_mounts import snapshots_of, volumes_of
from wherry.errors import WherryError
from wherry.oci.digest import ChainID
from wherry.runtime.cgroups.driver import cgroup_for
from wherry.shim.client import Exit, Shim, ShimError, ShimGone, bury, find_exit

_log = logging.getLogger(__name__)

STRANGER_TIMEOUT_S = 5
REVIVAL_S = 5.0
LOST = 255
"""The exit code of a container whose end nobody saw, as Docker gives it."""


async def restore(context: Context, containers: Containers, execs: Execs) -> None:
    """Called once, before anybody can ask for anything."""
    rows = await context.database.run(_rows, durable=False)
    known: dict[str, Container] = {}
    hidden: set[str] = set()
    for config, state in rows:
        record = msgspec.json.decode(config, type=ContainerRecord)
        if record.snapshot_driver != context.driver.name:
            hidden.add(record.id)  # seen again when its storage driver is chosen again
            containers.reserve(record.name, record.id)
            context.volumes.use((mount.name for mount in volumes_of(record)), record.id)
            continue
        container = containers.restore(record, msgspec.json.decode(state, type=ContainerState))
        known[record.id] = container
    await context.volumes.recover({*known, *hidden})
    alive: set[str] = set()
    for container in known.values():
        try:
            if await _reconnect(context, containers, execs, container):
                alive.add(container.id)
        except Exception:  # one container that cannot be restored must not keep the others from their engine
            _log.exception("container %s could not be restored", container.id)
            alive.add(container.id)
    await context.naming.restore([known[i] for i in known if i in alive])
    await _end_strangers(context, {*known, *hidden})
    await context.networks.reconcile(alive)
    snapshots = {key for container in known.values() for key in snapshots_of(container.record)}
    await asyncio.to_thread(_sweep_files, context, {*known, *hidden}, snapshots)
    await asyncio.to_thread(_mend_layers, context, [known[i].record for i in known if i not in alive])
    context.spawn(context.volumes.recover_others(lambda container_id: container_id in alive))
    for container in known.values():
        ended = container.state.status == "exited" and container.id not in alive
        if ended and container.record.host.auto_remove:
            await containers.lifecycle.remove_ended(container)


async def revive(context: Context, containers: Containers) -> None:
    """After `restore`: start what restart policies want, and wait a moment for it, so that clients who come now find it
    running. What takes longer goes on."""
    lifecycle = containers.lifecycle
    if not context.settings.live_restore:  # an earlier daemon was killed before it could stop them
        running = [container for container in containers.all() if container.state.is_running]
        await asyncio.gather(*(lifecycle.shut_down(container) for container in running))
    chosen: list[Container] = []
    for container in containers.all():
        container.is_to_end = False
        state = container.state
        if revives(container.record.host.restart_policy, state):
            state.restart_count, state.backoff_s = 0, 0.0
            state.become("restarting")
        if state.status == "restarting":
            chosen.append(container)
    lifecycle.restarts.open()
    if chosen:
        work = asyncio.ensure_future(lifecycle.restarts.start_all(chosen, containers.all()))
        context.spawn(_finish(work))
        await asyncio.wait([work], timeout=REVIVAL_S)


async def _finish(work: asyncio.Future[None]) -> None:
    await work


def _rows(connection: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
    return [(row[0], row[1]) for row in connection.execute("SELECT config, state FROM container")]


async def _reconnect(context: Context, containers: Containers, execs: Execs, container: Container) -> bool:
    """Whether the container runs. Its shim, if there is one, is connected or sent away."""
    directory = context.exec_dir(container.id)
    lifecycle, state = containers.lifecycle, container.state
    try:
        shim = Shim.connect(
            container.id,
            directory,
            on_event=lambda event: lifecycle.event(container, event),
            on_lost=lambda: lifecycle.lost(container),
        )
        status = await shim.state()
    except (ShimGone, ShimError):
        await _note_end(context, containers, container, directory)
        return False
    if status["status"] not in ("running", "paused", "stopped"):
        await _kill_and_send_away(shim)  # created and never started: whoever asked was never answered
        await _note_end(context, containers, container, directory)
        return False
    await _take_waiters(context, container, shim)
    execs.restore(container, status["execs"])
    container.shim = shim
    if status["status"] == "stopped":
        if not state.is_running and state.finished_ns >= int(status["exit"]["at_ns"]):
            container.shim = None
            await _kill_and_send_away(shim)  # known already
            return False
        _mark_running(container, "running")
        await lifecycle.exited(container, Exit.of(status["exit"]))
        return False
    _mark_running(container, "paused" if status["status"] == "paused" else "running")
    state.pid = int(status["pid"])
    await Connecting(context, containers.find).mend(container)
    state.endpoints = {
        context.networks.inspect(endpoint.network_id).name: endpoint
        for endpoint in context.networks.endpoints_of(container.id)
    }
    await context.ports.restore(container, shim, status.get("kept", ()))
    await context.save_state(container)
    await containers.added.reconcile(container, shim, status.get("mounts") or {})
    return True


def _mark_running(container: Container, status: Status) -> None:
    """What is found to run is running, whatever was written down before."""
    state = container.state
    if not state.is_running or not state.started_ns:
        state.started_ns = time.time_ns()
    state.status = status
    container.ended.clear()


async def _take_waiters(context: Context, container: Container, shim: Shim) -> None:
    """Clients of `wait` that an earlier daemon left with the shim."""
    for condition, sock in await shim.waiters():
        waiter = Waiter(CONDITIONS[condition])
        container.waiters.append(waiter)
        context.spawn(answer_wait(waiter, sock))


async def _note_end(context: Context, containers: Containers, container: Container, directory: str) -> None:
    """No shim: take the exit from its record, or say that nobody saw it."""
    state = container.state
    if state.status == "removing":
        state.status = "exited"
    if state.status == "restarting":
        end = find_exit(directory)
        if end is None or end.at_ns <= state.finished_ns:
            return
        _mark_running(container, "running")  # the restart was made, and not written down
    elif not state.is_running:
        return
    elif os.path.isdir(directory):
        end = await bury(directory, "the container's shim died while there was no daemon")
    else:  # the machine was started anew, or somebody emptied the exec root
        await asyncio.to_thread(_clear_cgroup, bundle.cgroup_path(container.record, context.settings))
        end = Exit(code=LOST, signal=0, oom_killed=False, at_ns=time.time_ns(), error="")
    container.ended.clear()
    await containers.lifecycle.exited(container, end)
    if end.code == LOST:
        state.restart_count, state.backoff_s = 0, 0.0  # another boot, another series


def _clear_cgroup(path: str) -> None:
    """No shim is left to do it, and after a reboot there is nothing to do."""
    group = cgroup_for(path)
    try:
        group.kill()
        group.remove()
    except OSError as exc:
        _log.error("cannot clear cgroup %s: %s", path, exc)


async def _kill_and_send_away(shim: Shim) -> None:
    try:
        await shim.kill(9, everything=True)
    except (ShimError, ShimGone):
        pass
    await send_away(shim)


async def _end_strangers(context: Context, known: set[str]) -> None:
    """Shims of containers the database does not know: their creation was never answered, or they were removed."""
    base = os.path.join(context.settings.exec_root, "containers")
    try:
        names = os.listdir(base)
    except FileNotFoundError:
        return
    for name in names:
        if name in known:
            continue
        directory = os.path.join(base, name)
        try:
            ended = asyncio.Event()
            shim = Shim.connect(
                name,
                directory,
                on_event=lambda event, ended=ended: ended.set() if event["event"] == "exit" else None,
                on_lost=ended.set,
            )
            await shim.kill(9, everything=True)
            async with asyncio.timeout(STRANGER_TIMEOUT_S):
                await ended.wait()
            await shim.release()
            shim.close()
        except (ShimError, ShimGone, TimeoutError):
            await bury(directory, "nobody knows this container")
        shutil.rmtree(directory, ignore_errors=True)


def _mend_layers(context: Context, records: list[ContainerRecord]) -> None:
    """A power cut can have emptied a writable layer that was made just before it."""
    for record in records:
        try:
            context.driver.prepare(record.id, [ChainID(text) for text in record.chain_ids])
            for mount in record.mounts:
                if mount.snapshot:
                    context.driver.prepare(mount.snapshot, [ChainID(text) for text in mount.chain_ids])
        except (WherryError, OSError) as exc:
            _log.error("the writable layer of container %s cannot be mended: %s", record.id, exc)


def _sweep_files(context: Context, known: set[str], snapshots: set[str]) -> None:
    """Writable layers and directories without a container. `snapshots`: layers of image mounts."""
    for key in context.driver.active():
        if key not in known and key not in snapshots:
            context.driver.remove(key)
    base = os.path.join(context.settings.data_root, "containers")
    for name in os.listdir(base):
        if name not in known:
            shutil.rmtree(os.path.join(base, name), ignore_errors=True)
