"""Start-up is recovery: bring what the database says and what really is back together.

Every way an earlier daemon can have ended leads here, a clean stop too. Afterwards: each container whose process
lives is connected again; each that ended meanwhile has its exit recorded; what was half-made is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import sqlite3
import time

import msgspec

from wherry.engine.containers import Containers
from wherry.engine.context import Context
from wherry.engine.records import Container, ContainerRecord, ContainerState
from wherry.errors import WherryError
from wherry.shim.client import Shim, ShimError

_log = logging.getLogger(__name__)

LOST = 255
"""The exit code of a container whose end nobody saw, as Docker gives it."""


async def restore(context: Context, containers: Containers) -> None:
    """Called once, before anybody can ask for anything."""
    rows = await context.database.run(_rows, durable=False)
    known: dict[str, Container] = {}
    for config, state in rows:
        record = msgspec.json.decode(config, type=ContainerRecord)
        container = containers.restore(record, msgspec.json.decode(state, type=ContainerState))
        known[record.id] = container
    alive: set[str] = set()
    for container in known.values():
        if await _reconnect(context, containers, container):
            alive.add(container.id)
    await _end_strangers(context, set(known))
    await context.networks.reconcile(alive)
    await asyncio.to_thread(_sweep_files, context, set(known))
    for container in known.values():
        if container.id not in alive and container.record.host.auto_remove and container.state.started_ns:
            await containers.lifecycle.remove_ended(container)


def _rows(connection: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
    return [(row[0], row[1]) for row in connection.execute("SELECT config, state FROM container")]


async def _reconnect(context: Context, containers: Containers, container: Container) -> bool:
    """Whether the container runs. Its shim, if there is one, is connected or sent away."""
    directory = context.exec_dir(container.id)
    shim: Shim | None = None
    try:
        shim = await context.launcher.connect(
            container.id, directory, on_event=lambda event: containers.lifecycle.event(container, shim, event)
        )
    except (OSError, ShimError):
        shim = None
    if shim is None:
        await _note_end(context, containers, container, directory)
        return False
    try:
        status = await shim.state()
    except (OSError, ShimError) as exc:
        _log.warning("shim of container %s does not answer: %s", container.id, exc)
        await shim.destroy()
        await _note_end(context, containers, container, directory)
        return False
    if status.status in ("running", "paused"):
        state = container.state
        state.status = "paused" if status.status == "paused" else "running"
        state.pid = status.pid
        state.started_ns = state.started_ns or status.started_ns or time.time_ns()
        state.finished_ns = 0
        state.endpoint = state.endpoint or context.networks.endpoint(container.id)
        container.shim = shim
        container.ended.clear()
        await context.save_state(container)
        return True
    if status.status == "stopped" and (container.state.is_running or not container.state.finished_ns):
        container.state.status = "running"
        container.state.started_ns = container.state.started_ns or time.time_ns()
        container.ended.clear()
        await containers.lifecycle.exited(container, shim, status.exit or {"code": LOST})
        return False
    await shim.destroy()  # created and never started: whoever asked for the start was never answered
    await _note_end(context, containers, container, directory)
    return False


async def _note_end(context: Context, containers: Containers, container: Container, directory: str) -> None:
    """No shim: take the exit from its record, or say that nobody saw it."""
    state = container.state
    if state.status == "removing":
        state.status = "exited"
    if not state.is_running:
        return
    record = read_exit_record(directory)
    event: dict[str, object] = record or {
        "code": LOST,
        "at_ns": time.time_ns(),
        "error": "",
    }
    container.ended.clear()
    auto_remove = container.record.host.auto_remove
    await containers.lifecycle.exited(container, None, event)
    if not auto_remove:
        shutil.rmtree(directory, ignore_errors=True)


def read_exit_record(directory: str) -> dict[str, object] | None:
    """What the shim wrote when its container ended; None when there is none that can be read."""
    try:
        with open(os.path.join(directory, "exit.json"), "rb") as file:
            record: object = json.load(file)
    except (OSError, ValueError):
        return None
    return {str(key): value for key, value in record.items()} if isinstance(record, dict) else None  # type: ignore[reportUnknownVariableType]


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
            shim = await context.launcher.connect(name, directory, on_event=lambda _event: None)
            await shim.destroy()
        except (OSError, ShimError, WherryError):
            pass
        shutil.rmtree(directory, ignore_errors=True)


def _sweep_files(context: Context, known: set[str]) -> None:
    """Writable layers and directories without a container."""
    for key in context.driver.active():
        if key not in known:
            context.driver.remove(key)
    base = os.path.join(context.settings.data_root, "containers")
    for name in os.listdir(base):
        if name not in known:
            shutil.rmtree(os.path.join(base, name), ignore_errors=True)
