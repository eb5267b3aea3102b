"""Execs: another process in a running container. They live in memory and in the shim, never in the database."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET

from wherry.engine import bundle
from wherry.engine.attach import DETACH_KEYS, Attachment, check_detach_keys, frame, hang_up
from wherry.engine.containers import Containers
from wherry.engine.context import Context
from wherry.engine.lifecycle import EXIT_CODES, must_not_restart
from wherry.engine.records import Container, ContainerRecord
from wherry.errors import Conflict, Internal, InvalidParameter, NotFound
from wherry.model.execs import ExecCreate, ExecCreated, ExecInspect, ExecStart, ProcessConfig
from wherry.runtime.errors import StartFailed
from wherry.runtime.users import resolve as resolve_user
from wherry.shim.client import ShimError, ShimGone

KEPT_AFTER_END_S = 300
"""How long an ended exec can be inspected."""
MAX_KEPT = 1000
"""Execs remembered per container; the oldest ended ones go first."""


class Exec:
    """One exec, from its creation until some minutes after its end."""

    def __init__(self, exec_id: str, container: Container, body: ExecCreate) -> None:
        self.id = exec_id
        self.container = container
        self.body = body
        self.is_started = False
        self.is_running = False
        self.exit_code: int | None = None
        self.pid = 0
        self.ended_at = 0.0
        self.ended = asyncio.Event()


class Execs:
    def __init__(self, context: Context, containers: Containers) -> None:
        self._context = context
        self._containers = containers
        self._by_id: dict[str, Exec] = {}
        context.exec_ended = self._ended
        context.end_execs = self._end_all
        context.forget_execs = self._forget

    def _find(self, exec_id: str) -> Exec:
        found = self._by_id.get(exec_id)
        if found is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        return found

    async def create(self, reference: str, body: ExecCreate) -> ExecCreated:
        container = self._containers.find(reference)
        _must_run(container)
        if not body.cmd:
            raise InvalidParameter("No exec command specified")
        for text in (*body.cmd, *(body.env or ()), body.user, body.working_dir):
            if "\0" in text:
                raise InvalidParameter(f"invalid value {text!r}: it holds a NUL byte")
        if body.working_dir and not body.working_dir.startswith("/"):
            raise InvalidParameter(f"Cwd must be an absolute path: {body.working_dir!r}")
        check_detach_keys(body.detach_keys)
        await _check_user(container, body.user)
        self._sweep(container)
        exec_id = secrets.token_hex(32)
        it = Exec(exec_id, container, body)
        self._by_id[exec_id] = it
        container.execs[exec_id] = it
        self._emit(it, f"exec_create: {' '.join(body.cmd)}")
        asyncio.get_running_loop().call_soon(self._announce, it)  # the client is answered first
        return ExecCreated(id=exec_id)

    async def start(self, exec_id: str, body: ExecStart) -> Attachment | None:
        """Detached: the process runs when this returns None. Else the attachment starts it once it has its client."""
        it = self._find(exec_id)
        _must_run(it.container)
        if it.exit_code is not None:
            raise Conflict(f"exec {exec_id} has already run")
        if it.is_started:
            raise Conflict(f"exec {exec_id} is already running")
        it.is_started = True
        if body.console_size and any(body.console_size):
            it.body.console_size = body.console_size
        if body.detach:
            try:
                await self._run(it, None, b"")
            except ShimError as exc:
                raise (InvalidParameter if exc.kind != "internal" else Internal)(_message(exc)) from exc
            return None

        async def deliver(sock: socket.socket, pending: bytes) -> None:
            try:
                await self._run(it, sock, pending)
            except ShimError as exc:
                text = (_message(exc) + "\r\n").encode()
                await _write_last(sock, text if it.body.tty else frame(1, text))
            finally:
                sock.close()

        return Attachment(mux=not it.body.tty, deliver=deliver)

    def _announce(self, it: Exec) -> None:
        """Have the shim prepare what the client, in all likelihood, is about to start."""
        container = it.container
        if container.shim is not None and _is_alone(container.record):
            prepared = container.shim.prepare(self._process(it), stdin=it.body.attach_stdin)
            prepared.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _process(self, it: Exec) -> dict[str, Any]:
        return bundle.process_for_exec(
            it.container.record,
            it.body,
            settings=self._context.settings,
            facts=self._context.facts,
            linked=self._context.naming.link_environment(it.container),
        )

    async def _run(self, it: Exec, sock: socket.socket | None, pending: bytes) -> None:
        container, body = it.container, it.body
        shim = container.shim
        if shim is None:
            raise Conflict(f"container {container.id} is not running")
        process = self._process(it)
        self._emit(it, f"exec_start: {' '.join(body.cmd or ())}")
        it.is_running = True
        try:
            started = await shim.exec(
                it.id,
                process,
                sock,
                stdin=body.attach_stdin,
                stdout=body.attach_stdout,
                stderr=body.attach_stderr,
                mux=not body.tty,
                detach_keys=(body.detach_keys or DETACH_KEYS) if body.tty else "",
                pending=pending,
            )
            it.pid = int(started["pid"])
        except ShimError as exc:
            self._end(it, EXIT_CODES.get(exc.kind, 126))
            raise
        except ShimGone as exc:
            self._end(it, 137)
            raise Conflict(f"container {container.id} is not running") from exc

    async def wait(self, exec_id: str) -> int:
        """The exit code, once the exec has ended."""
        it = self._find(exec_id)
        await it.ended.wait()
        return it.exit_code if it.exit_code is not None else 255

    async def resize(self, exec_id: str, *, height: int, width: int) -> None:
        it = self._find(exec_id)
        shim = it.container.shim
        if not it.is_running or shim is None:
            raise Conflict(f"exec {exec_id} is not running")
        await shim.resize(width=width, height=height, exec_id=exec_id)

    async def inspect(self, exec_id: str) -> ExecInspect:
        it = self._find(exec_id)
        command = it.body.cmd or [""]
        return ExecInspect(
            id=it.id,
            running=it.is_running,
            exit_code=it.exit_code,
            process_config=ProcessConfig(
                tty=it.body.tty,
                entrypoint=command[0],
                arguments=command[1:],
                privileged=it.body.privileged,
                user=it.body.user or UNSET,
            ),
            open_stdin=it.body.attach_stdin,
            open_stderr=it.body.attach_stderr,
            open_stdout=it.body.attach_stdout,
            can_remove=it.exit_code is not None,
            container_id=it.container.id,
            detach_keys=it.body.detach_keys,
            pid=it.pid,
        )

    def restore(self, container: Container, known: Sequence[Mapping[str, Any]]) -> None:
        """Know again what ran, or runs, in a container that an earlier daemon started execs in."""
        for entry in known:
            it = Exec(str(entry["exec_id"]), container, ExecCreate())
            it.is_started = True
            it.pid = int(entry["pid"])
            self._by_id[it.id] = container.execs[it.id] = it
            if entry["code"] is None:
                it.is_running = True
            else:
                self._end(it, int(entry["code"]))

    # Ends

    def _ended(self, container: Container, exec_id: str, code: object) -> None:
        it = container.execs.get(exec_id)
        if it is not None:
            self._end(it, code if isinstance(code, int) else 255)

    def _end(self, it: Exec, code: int) -> None:
        if it.exit_code is None:
            it.exit_code, it.is_running, it.ended_at = code, False, time.monotonic()
            it.ended.set()
            attributes = {"execID": it.id, "exitCode": str(code)}
            self._context.events.emit(
                "container", "exec_die", it.container.id, {**it.container.event_attributes(), **attributes}
            )

    def _end_all(self, container: Container) -> None:
        """The container is gone, and with it whatever ran in it."""
        for it in container.execs.values():
            if it.is_running:
                self._end(it, 137)

    def _forget(self, container: Container) -> None:
        for exec_id in container.execs:
            self._by_id.pop(exec_id, None)
        container.execs.clear()

    def _sweep(self, container: Container) -> None:
        """Forget what ended long ago, so that a container with a million execs costs no more than one with few."""
        now = time.monotonic()
        ended = [it for it in container.execs.values() if it.exit_code is not None]
        excess = len(container.execs) - MAX_KEPT
        for it in ended:
            if excess <= 0 and now - it.ended_at < KEPT_AFTER_END_S:
                break
            excess -= 1
            container.execs.pop(it.id, None)
            self._by_id.pop(it.id, None)

    def _emit(self, it: Exec, action: str) -> None:
        attributes = {**it.container.event_attributes(), "execID": it.id}
        self._context.events.emit("container", action, it.container.id, attributes)


def _is_alone(record: ContainerRecord) -> bool:
    """Whether nobody in the container can look into a process that waits there: tracing is not allowed, and no other
    container's processes are about."""
    host = record.host
    may_trace = host.privileged or any(
        name.upper().removeprefix("CAP_") in ("ALL", "SYS_PTRACE") for name in host.cap_add or ()
    )
    return not may_trace and not host.pid_mode


async def _check_user(container: Container, name: str) -> None:
    """Refuse a name the container does not know now, while the client can be told by a status."""
    user, _, group = name.partition(":")
    if (not user or user.isdigit()) and (not group or group.isdigit()):
        return
    if container.shim is None:
        return
    try:
        root = await container.shim.descriptor("rootfs")
    except (ShimError, ShimGone):
        return  # the runtime will say so
    try:
        resolve_user(root, name, ())
    except StartFailed as exc:
        raise InvalidParameter(exc.message) from exc
    finally:
        os.close(root)


def _must_run(container: Container) -> None:
    if container.state.status == "paused":
        raise Conflict(f"Container {container.name} is paused, unpause the container before exec")
    must_not_restart(container)
    if not container.state.is_running:
        raise Conflict(f"container {container.id} is not running")


def _message(error: ShimError) -> str:
    """Docker's sentence: the CLI takes the exit code from the exec, people read this."""
    text = str(error)
    middle = text if text.startswith("unable to start") else f"unable to start container process: {text}"
    return f"OCI runtime exec failed: exec failed: {middle}"


async def _write_last(sock: socket.socket, text: bytes) -> None:
    sock.setblocking(False)
    try:
        async with asyncio.timeout(10):
            await asyncio.get_running_loop().sock_sendall(sock, text)
    except OSError:
        pass
    hang_up(sock)
