"""Hooks of config.json: programs run at fixed points of a container's life, the state on their standard input."""

from __future__ import annotations

import json
import os
import select
import signal
import time

from wherry.runtime.errors import INTERNAL, StartFailed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.plan import Plan

OCI_VERSION = "1.2.0"
_STDERR_LIMIT = 4096


def state(plan: Plan, pid: int, status: str) -> dict[str, Any]:
    """The container's state as the specification has it."""
    result: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "id": plan.container_id,
        "status": status,
        "pid": pid,
        "bundle": plan.bundle,
    }
    if plan.annotations:
        result["annotations"] = plan.annotations
    return result


def check(hooks: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse what could not be run."""
    for name, entries in hooks.items():
        for entry in entries or []:
            path = entry.get("path")
            if not isinstance(path, str) or not path.startswith("/"):
                raise invalid(f"invalid {name} hook path {path!r}: want an absolute path")


def run(entries: list[dict[str, Any]], state_value: dict[str, Any], name: str) -> None:
    """Run each hook to its end, in order. The first that fails, or takes too long, stops the rest."""
    data = json.dumps(state_value).encode()
    for number, entry in enumerate(entries):
        problem = _run_one(entry, data)
        if problem:
            raise StartFailed(INTERNAL, f"error running {name} hook #{number}: {problem}")


def _run_one(entry: dict[str, Any], data: bytes) -> str | None:
    """None when the hook ended with status 0, else what went wrong."""
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
    stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC)
    environment = dict(each.partition("=")[::2] for each in entry.get("env") or [])
    arguments = entry.get("args") or [entry["path"]]
    timeout = entry.get("timeout")
    deadline = time.monotonic() + timeout if timeout else None
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(stdin_read, 0)
            os.dup2(stderr_write, 1)
            os.dup2(stderr_write, 2)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execve(entry["path"], arguments, environment)
        except OSError as exc:
            os.write(2, f"exec {entry['path']}: {os.strerror(exc.errno or 0).lower()}".encode())
        finally:
            os._exit(127)
    os.close(stdin_read)
    os.close(stderr_write)
    try:
        try:
            os.write(stdin_write, data)  # far below a pipe's capacity
        except BrokenPipeError:
            pass  # the hook does not read it
        os.close(stdin_write)
        said, in_time = _collect(stderr_read, deadline)
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(stderr_read)
    if not in_time:
        return f"hook ran past specified timeout of {timeout:.1f}s"
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return None
    ending = f"exit status {code}" if code > 0 else f"signal: {signal.Signals(-code).name}"
    return f"{ending}, stdout: , stderr: {said.decode('utf-8', 'replace')}"


def _collect(stream: int, deadline: float | None) -> tuple[bytes, bool]:
    """What the hook prints until it closes its output, bounded; and whether that was before the deadline."""
    said = b""
    waiter = select.poll()
    waiter.register(stream, select.POLLIN | select.POLLHUP)
    while True:
        remaining_ms = None if deadline is None else max(0, int((deadline - time.monotonic()) * 1000))
        if not waiter.poll(remaining_ms):
            return said, False
        data = os.read(stream, 4096)
        if not data:
            return said, True
        said = (said + data)[:_STDERR_LIMIT]
