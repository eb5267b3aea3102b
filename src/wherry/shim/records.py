"""What a shim leaves on disk for daemons to come: `shim.json` (who it is) and `exit.json` (how it ended).

Both are small JSON objects in EXEC/containers/ID, written to a temporary name and renamed, so that a reader
sees a whole one or none. EXEC is on a tmpfs, and a boot makes every record void, so nothing is synced.
"""

from __future__ import annotations

import os
import time

from wherry.shim.protocol import from_json, is_object, to_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SHIM, EXIT = "shim.json", "exit.json"
_MAX_RECORD = 1 << 20


def write(directory: str, name: str, record: dict[str, Any]) -> None:
    """Put `record` in place of what `directory`/`name` held."""
    path = f"{directory}/{name}"
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, to_json(record))
    finally:
        os.close(fd)
    os.rename(temporary, path)


def find(directory: str, name: str) -> dict[str, Any] | None:
    """The record, or None if there is none or it is not one of ours."""
    try:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        value: Any = from_json(os.read(fd, _MAX_RECORD))
    except ValueError:
        return None
    finally:
        os.close(fd)
    return value if is_object(value) else None


def start_time(pid: int) -> int:
    """When process `pid` began, in ticks since boot; 0 if there is none. With the pid it names one process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            stat = os.read(fd, 4096)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def is_alive(record: dict[str, Any]) -> bool:
    """True if the process that wrote `record` still runs (and is no other one that got its pid)."""
    return bool(record.get("start")) and start_time(record["pid"]) == record["start"]


def exit_record(
    code: int, *, signal: int = 0, oom_killed: bool = False, error: str = "", at_ns: int = 0
) -> dict[str, Any]:
    """The exit of a container as `exit.json` and the `exit` event hold it."""
    return {
        "code": code,
        "signal": signal,
        "oom_killed": oom_killed,
        "at_ns": at_ns or time.time_ns(),
        "error": error,
    }
