"""The verbs that change or end what was made: kill, delete, pause, resume, update."""

from __future__ import annotations

import json
import os
import select
import signal
import sys

from wherry.runtime import hooks, values
from wherry.runtime.command import state
from wherry.runtime.command.call import Call, complain, read_json
from wherry.runtime.command.options import Usage
from wherry.runtime.errors import StartFailed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.lifecycle import Process

_STOP_TIMEOUT_S = 10.0
UPDATES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "cpu-share": ("cpu", "shares"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "pids-limit": ("pids", "limit"),
}


def kill(call: Call) -> int:
    record = call.record()
    arguments = call.local.arguments
    number = _signal(arguments[1] if len(arguments) > 1 else "SIGTERM")
    if call.local.flag("all"):
        group = record.group()
        if number == signal.SIGKILL:
            group.kill()
            return 0
        for pid in group.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        return 0
    if not record.is_alive():
        raise invalid("container not running")
    container = record.container()
    container.signal(number)
    if number == signal.SIGKILL and record.group().is_frozen():
        container.cgroup.thaw()  # a frozen process does not even die
    return 0


def delete(call: Call) -> int:
    forced = call.local.flag("force")
    try:
        record = call.record()
    except state.NoContainer:
        if forced:
            state.remove_directory(os.path.join(call.root, state.check_id(call.local.arguments[0])))
            return 0
        raise
    status = record.status()
    if status in ("stopped", "created") or forced:
        delete_forced(record)
        return 0
    raise invalid(f"cannot delete container {record.id} that is not stopped: {status}")


def pause(call: Call) -> int:
    record = call.record()
    if record.status() not in ("running", "created"):
        raise invalid("container not running or created: " + record.status())
    record.group().freeze()
    return 0


def resume(call: Call) -> int:
    record = call.record()
    if record.status() != "paused":
        raise invalid("container not paused")
    record.group().thaw()
    return 0


def update(call: Call) -> int:
    record = call.record()
    local = call.local
    if local.text("resources"):
        if local.text("resources") == "-":
            resources: dict[str, Any] = json.load(sys.stdin)
        else:
            resources = read_json(
                local.text("resources"), missing=f"open {local.text('resources')}: no such file"
            )
    else:
        resources = {"memory": {}, "cpu": {}, "pids": {}}
        for option, (part, key) in UPDATES.items():
            text = local.text(option)
            if text:
                resources[part][key] = text if key in ("cpus", "mems") else _bytes(text)
    record.group().update(resources)
    return 0


def delete_forced(record: state.Record) -> None:
    """Kill what lives, and leave nothing: cgroup, state, and what the poststop hooks clean up."""
    try:
        container = record.container()
    except StartFailed:
        container = None
    group = record.group()
    if container is not None:
        container.signal(signal.SIGKILL)
        group.thaw()
    group.kill()
    if container is not None:
        _await_end(container.init)
    group.remove()
    entries = hooks.parse(values.child(record.config, "hooks")).get("poststop")
    if entries:
        try:
            hooks.run(entries, hook_state(record, "stopped"), "poststop")
        except StartFailed as exc:
            complain(exc.message)
    record.remove()


def hook_state(record: state.Record, status: str) -> dict[str, Any]:
    shown = record.shown()
    result = {key: shown[key] for key in ("ociVersion", "id", "pid", "bundle")}
    result["status"] = status
    if "annotations" in shown:
        result["annotations"] = shown["annotations"]
    return result


def _await_end(process: Process) -> None:
    """Wait until the process is dead, whoever's child it is."""
    waiter = select.poll()
    waiter.register(process.pidfd, select.POLLIN)
    if not waiter.poll(_STOP_TIMEOUT_S * 1000):
        raise StartFailed("internal", f"process {process.pid} does not die")


def _bytes(text: str) -> int:
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    unit = units.get(text[-1:].lower(), 1)
    try:
        return int(text[:-1] if unit > 1 else text) * unit
    except ValueError as exc:
        raise Usage(f"invalid value {text!r}: want a number, or one with k, m or g") from exc


def _signal(text: str) -> int:
    name = text.upper()
    if text.isdigit() and 0 <= int(text) < signal.NSIG:
        return int(text)
    number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if isinstance(number, signal.Signals):
        return int(number)
    raise invalid(f'unknown signal "{text}"')
