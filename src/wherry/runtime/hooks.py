"""Hooks of config.json: programs run at fixed points of a container's life, the state on their standard
input.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time

from wherry.runtime import identity, values
from wherry.runtime.errors import INTERNAL, StartFailed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.plan import Plan

OCI_VERSION = "1.2.0"
NAMES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
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


class Hook:
    """One program to run; `timeout_s` 0 means that it has all the time it wants."""

    __slots__ = ("args", "env", "path", "timeout_s")

    def __init__(self, name: str, entry: dict[str, Any]) -> None:
        self.path = values.text(entry, "path")
        if not self.path.startswith("/"):
            raise invalid(f"invalid {name} hook path {self.path!r}: want an absolute path")
        self.args = values.texts(entry, "args") or [self.path]
        self.env = identity.parse_environment(values.texts(entry, "env"))
        timeout = values.number(entry, "timeout")
        if timeout is not None and timeout <= 0:
            raise invalid(f"invalid {name} hook timeout {timeout}: want a positive number of seconds")
        self.timeout_s = timeout or 0


def parse(entries: dict[str, Any]) -> dict[str, list[Hook]]:
    """The `hooks` object of config.json, those without an entry left out."""
    found = {name: [Hook(name, entry) for entry in values.children(entries, name)] for name in NAMES}
    return {name: hooks for name, hooks in found.items() if hooks}


def run(entries: list[Hook], state_value: dict[str, Any], name: str) -> None:
    """Run each hook to its end, in order. The first that fails, or takes too long, stops the rest."""
    data = json.dumps(state_value).encode()
    for number, hook in enumerate(entries):
        problem = _run_one(hook, data)
        if problem:
            raise StartFailed(INTERNAL, f"error running {name} hook #{number}: {problem}")


def _run_one(hook: Hook, data: bytes) -> str | None:
    """None when the hook ended with status 0, else what went wrong."""
    stdin_read, stdin_write = os.pipe2(os.O_CLOEXEC)
    stderr_read, stderr_write = os.pipe2(os.O_CLOEXEC)
    deadline = time.monotonic() + hook.timeout_s if hook.timeout_s else None
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(stdin_read, 0)
            os.dup2(stderr_write, 1)
            os.dup2(stderr_write, 2)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.execve(hook.path, hook.args, hook.env)
        except OSError as exc:
            os.write(2, f"exec {hook.path}: {os.strerror(exc.errno or 0).lower()}".encode())
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
        return f"hook ran past specified timeout of {hook.timeout_s:.1f}s"
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
