"""What makes a container live and die: start, the exit that follows, stop, kill, pause.

Everything that changes a container's state holds its lock, except waiting for its end: the exit arrives as an event
from the shim and takes the lock itself, so `stop` and `remove --force` wait without it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from wherry.engine import bundle, propagation
from wherry.engine.attach import DETACH_KEYS, EarlyClient, hang_up
from wherry.engine.connecting import network_attributes
from wherry.engine.context import Context
from wherry.engine.creation import endpoint_requests, parse_signal, port_specs
from wherry.engine.log_setup import log_target
from wherry.engine.records import Container
from wherry.engine.restarts import Restarts, next_delay, wants_restart
from wherry.engine.settings import BUILT_IN_RUNTIME
from wherry.engine.volume_mounts import ContainerMounts
from wherry.errors import Conflict, Internal, InvalidParameter, NotModified, Unavailable, WherryError
from wherry.linux.killpoint import killpoint
from wherry.model.containers import ContainerWaited
from wherry.network.driver import Endpoint
from wherry.runtime.cgroups.driver import cgroup_for
from wherry.shim.client import Exit, Shim, ShimError, ShimGone, bury
from wherry.volumes.driver import Data

_log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10
SIGKILL, SIGTERM = 9, 15
EXIT_CODES = {"not-found": 127, "permission": 126}

FindRunning = Callable[[str], Container]


class Lifecycle:
    """The engine's hands on running containers. `remove` ends a stopped container whose lock is held; `find_running`
    gives the container that a `container:` mode names."""

    def __init__(
        self,
        context: Context,
        *,
        remove: Callable[[Container], Awaitable[None]],
        mounts: ContainerMounts,
        find_running: FindRunning,
    ) -> None:
        self._context = context
        self._remove = remove
        self._mounts = mounts
        self._find_running = find_running
        self.restarts = Restarts(context, self._start_again)

    # Starting

    async def start(self, container: Container) -> None:
        """The container runs when this returns. Raises NotModified when it does already, or is about to."""
        async with container.lock:
            state = container.state
            if state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if state.is_active:
                raise NotModified(f"container {container.id} is already running")
            if state.status in ("removing", "dead"):
                raise Conflict("container is marked for removal and cannot be started")
            state.restart_count, state.backoff_s = 0, 0.0
            state.is_manually_stopped = container.is_to_end = False
            state.error, state.exit_code, state.oom_killed = "", 0, False
            try:
                await self._start(container)
            except _Failed as failed:
                await self._start_failed(container, failed)
                raise failed.error from failed.__cause__

    async def _start_again(self, container: Container) -> None:
        """The restart of a container in `restarting` is due. One that fails is the last, as in Docker, unless the
        reason is the engine's and not the container's: then it is tried again."""
        async with container.lock:
            state = container.state
            if state.status != "restarting" or container.is_to_end:
                return
            killpoint("restart:due")
            try:
                await self._start(container)
            except _Failed as failed:
                _log.warning("container %s could not be started again: %s", container.id, failed.error)
                if failed.is_passing:
                    state.backoff_s = next_delay(state.backoff_s, 0)
                    self.restarts.schedule(container)
                else:
                    state.error = str(failed.error)
                    await self._end_restarts(container)

    async def _end_restarts(self, container: Container) -> None:
        """A container in `restarting`, whose lock is held, stays ended."""
        self.restarts.cancel(container)
        container.state.become("exited")
        await self._context.save_state_if_possible(container)
        killpoint("restart:called-off")
        self._settle_waiters(container)

    async def _start(self, container: Container) -> None:
        context, state = self._context, container.state
        await context.free_files(container, at_once=False)
        container.begin_trace()
        try:
            async with AsyncExitStack() as undo:
                undo.push_async_callback(context.networks.release, container.id)
                undo.callback(context.naming.end, container)
                shim = await self._prepare(container, undo)
                state.pid = await self._launch(container, shim)
                killpoint("start:started")
                state.become("running")
                state.started_ns = time.time_ns()
                state.error, state.exit_code, state.oom_killed = "", 0, False
                container.ended.clear()
                container.shim = shim
                undo.pop_all()
        except ShimError as exc:
            state.pid, state.endpoints = 0, {}
            refused = exc.kind in ("not-found", "permission", "invalid")
            error = (InvalidParameter if refused else Internal)(_runtime_message(exc))
            raise _Failed(error, EXIT_CODES.get(exc.kind, 128)) from exc
        except (WherryError, OSError) as exc:
            state.pid, state.endpoints = 0, {}
            raise _Failed(exc, 128, is_passing=isinstance(exc, (ShimGone, Unavailable))) from exc
        if container.record.host.auto_remove:
            # Nothing is promised of it but that it goes: its client need not wait for the database.
            context.spawn(context.save_state_if_possible(container))
        else:
            await context.save_state(container)
        killpoint("start:state-written")
        container.mark("recorded")
        context.naming.tell_linked(container)
        context.events.emit("container", "start", container.id, container.event_attributes())

    async def _prepare(self, container: Container, undo: AsyncExitStack) -> Shim:
        """Network and bundle made, and a shim asked to make the container from them. Nothing is awaited of the shim."""
        context, record, state = self._context, container.record, container.state
        mode = record.host.network_mode
        joined = self._joined(container)
        if joined.network_of:  # one network, one name
            other = self._find_running(mode).record.config
            record.config.hostname, record.config.domainname = other.hostname, other.domainname
        directory = context.exec_dir(container.id)
        # An earlier run's records must not be taken for this one's.
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory, mode=0o711)
        shim = await context.launcher.spawn(  # first, so that it gets ready while we do the rest
            container.id,
            directory,
            on_event=lambda event: self.event(container, event),
            on_lost=lambda: self.lost(container),
        )
        undo.push_async_callback(send_away, shim)
        killpoint("start:shim-forked")
        sandbox: int | None = None
        name_sockets: Mapping[str, int] = {}
        if not mode.startswith("container:"):
            try:
                attachment = await context.networks.acquire(container.id, endpoint_requests(record))
            except WherryError as exc:
                raise type(exc)(f"failed to set up container networking: {exc}") from exc
            self._tell_networks("connect", container, attachment.endpoints)
            state.endpoints = dict(zip(record.endpoints, attachment.endpoints, strict=True))
            sandbox = attachment.sandbox
            name_sockets = await context.naming.begin(container, attachment)
        undo.push_async_callback(context.ports.close, container)
        reserved = context.ports.reserve(container, port_specs(record))
        undo.callback(context.ports.let_go, reserved)
        killpoint("start:ports-reserved")
        container.mark("network ready")
        killpoint("start:network-ready")
        data = await self._mounts.mount(container)
        undo.push_async_callback(self._mounts.unmount, container)
        seccomp = self._write_bundle(container, joined, data, directory, has_sandbox=sandbox is not None)
        container.mark("bundle written")
        killpoint("start:bundle-written")
        runtime = record.host.runtime
        kept = context.ports.hand_over(shim, container.id, reserved)
        if name_sockets:
            kept.append(shim.keep(name_sockets))
        killpoint("start:ports-kept")
        created = shim.create(
            bundle=directory,
            runtime=None if runtime == BUILT_IN_RUNTIME else context.runtime_command(runtime),
            rootfs=context.driver.rootfs(container.id),
            cgroup=bundle.cgroup_path(record, context.settings),
            stdin=record.config.open_stdin,
            stdin_once=record.config.stdin_once,
            log=log_target(context, container),
            seccomp=seccomp,
            netns=sandbox,
        )
        created.add_done_callback(lambda _: container.mark("container created"))
        await context.ports.open(container)
        await asyncio.gather(*kept)
        killpoint("start:ports-open")
        await created
        killpoint("start:created")
        return shim

    def _tell_networks(self, action: str, container: Container, endpoints: Iterable[Endpoint]) -> None:
        for endpoint in endpoints:
            network = self._context.networks.inspect(endpoint.network_id)
            attributes = {**network_attributes(network), "container": container.id}
            self._context.events.emit("network", action, network.id, attributes)

    async def _launch(self, container: Container, shim: Shim) -> int:
        """Hand the waiting clients to the shim and release the process; its pid. All requests go out at once."""
        handed = [self._hand(shim, container, early) for early in container.early]
        lent = [shim.wait(w.socket, w.condition) for w in container.waiters if w.socket is not None]
        killpoint("start:clients-handed-over")
        started = shim.start()
        others = await asyncio.gather(*handed, *lent, return_exceptions=True)
        container.early.clear()
        pid = int((await started)["pid"])
        container.mark("process started")
        for failure in others:
            if isinstance(failure, BaseException):
                _log.warning("a client of container %s could not be handed over: %s", container.id, failure)
        return pid

    def _joined(self, container: Container) -> bundle.Joined:
        """The namespaces of other containers this one joins, as paths that stay good while those run."""
        find_running = self._find_running

        def path(mode: str, namespace: str) -> str:
            if not mode.startswith("container:"):
                return ""
            return f"/proc/{find_running(mode).state.pid}/ns/{namespace}"

        host = container.record.host
        shm = ""
        if host.ipc_mode.startswith("container:"):
            shm = f"/proc/{find_running(host.ipc_mode).state.pid}/root/dev/shm"
        return bundle.Joined(
            pid=path(host.pid_mode, "pid"),
            ipc=path(host.ipc_mode, "ipc"),
            network=path(host.network_mode, "net"),
            network_of=find_running(host.network_mode).id
            if host.network_mode.startswith("container:")
            else "",
            shm=shm,
        )

    def _write_bundle(
        self,
        container: Container,
        joined: bundle.Joined,
        data: Mapping[str, Data],
        directory: str,
        *,
        has_sandbox: bool,
    ) -> str | None:
        """config.json and the /etc files on disk; the path of the compiled seccomp filter."""
        context, record = self._context, container.record
        context.naming.write_files(container)
        for mount in record.mounts:
            propagation.check_source(mount, context.settings.data_root)
            if mount.create_source and not os.path.exists(mount.source):
                os.makedirs(mount.source, exist_ok=True)
            elif mount.type == "bind" and not os.path.lexists(mount.source):
                raise InvalidParameter(
                    f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
                )
        is_ours = record.host.runtime == BUILT_IN_RUNTIME
        profile, compiled = context.seccomp_for(record, compiled=is_ours)
        spec = bundle.spec_for(
            record,
            settings=context.settings,
            facts=context.facts,
            etc=context.etc_files(joined.network_of or container.id),
            joined=joined,
            data=data,
            has_sandbox=has_sandbox,
            seccomp=profile,
            linked=context.naming.link_environment(container),
        )
        with open(os.path.join(directory, "config.json"), "wb", opener=_private) as file:
            file.write(msgspec.json.encode(spec))
        return compiled

    async def _start_failed(self, container: Container, failed: _Failed) -> None:
        """Leave the container as it was, with the reason; nothing else of the attempt stays."""
        container.state.error, container.state.exit_code = str(failed.error), failed.code
        for early in container.early:
            hang_up(early.sock)
        container.early.clear()
        if container.record.host.auto_remove:
            await self._remove(container)
        else:
            await self._context.save_state(container)

    # Clients

    async def hand_over(self, container: Container, client: EarlyClient) -> None:
        """Give an attached client's connection to the shim of a running container."""
        if container.shim is None:
            hang_up(client.sock)
            return
        try:
            await self._hand(container.shim, container, client)
        except (ShimError, ShimGone):
            pass  # it ended just now: its socket is closed, and that is what the client sees

    def _hand(self, shim: Shim, container: Container, client: EarlyClient) -> asyncio.Future[Any]:
        options, config = client.options, container.record.config
        answer = shim.attach(
            client.sock,
            stdin=options.stdin and config.open_stdin,
            stdout=options.stdout,
            stderr=options.stderr,
            mux=not config.tty,
            detach_keys=(options.detach_keys or DETACH_KEYS) if config.tty else "",
            pending=client.pending,
        )
        answer.add_done_callback(lambda _: client.sock.close())
        return answer

    # Events of a shim

    def event(self, container: Container, event: Mapping[str, Any]) -> None:
        """Called in order for each event of a container's shim."""
        kind, emit = event["event"], self._context.events.emit
        if kind == "exit":
            self._context.spawn(self.exited(container, Exit.of(event)))
        elif kind == "oom":
            container.state.oom_killed = True
            emit("container", "oom", container.id, container.event_attributes())
        elif kind == "exec_exit":
            self._context.exec_ended(container, str(event["exec_id"]), int(event["code"]))
        elif kind == "detach":
            attributes = container.event_attributes()
            exec_id = event.get("exec_id")
            if exec_id:
                emit("container", "exec_detach", container.id, {**attributes, "execID": str(exec_id)})
            else:
                emit("container", "detach", container.id, attributes)

    def lost(self, container: Container) -> None:
        """The container's shim hung up. If the container was running, its shim has died: it goes with it."""
        if container.state.is_running:
            self._context.spawn(self._bury(container))

    async def _bury(self, container: Container) -> None:
        _log.warning("the shim of container %s died", container.id)
        reason = "the container's shim died: its processes were killed"
        await self.exited(container, await bury(self._context.exec_dir(container.id), reason))

    async def exited(self, container: Container, end: Exit) -> None:
        """Take note that the container's process has ended: record, network, clients, `--rm`."""
        context, state = self._context, container.state
        async with container.lock:
            if not state.is_running:
                return  # told twice: by the event, and by the record that a restart or a lost shim led to
            lived_s = max(0, end.at_ns - state.started_ns) / 1e9
            starts_again = not container.is_to_end and wants_restart(
                container.record.host.restart_policy,
                exit_code=end.code,
                count=state.restart_count,
                is_stopped=state.is_manually_stopped,
            )
            if starts_again:
                state.restart_count += 1
                state.backoff_s = next_delay(state.backoff_s, lived_s)
            state.become("restarting" if starts_again else "exited")
            state.exit_code, state.finished_ns, state.error = end.code, end.at_ns, end.error
            state.oom_killed = state.oom_killed or end.oom_killed
            state.pid = 0
            container.close_meter()
            shim, container.shim = container.shim, None
            context.naming.end(container)
            await context.ports.close(container)
            killpoint("exit:ports-closed")
            # The shim gives cgroup and mounts back while the rest goes on. Its record of the exit stays for the next daemon.
            leaving = asyncio.ensure_future(send_away(shim)) if shim is not None else None
            await context.networks.release(container.id)
            self._tell_networks("disconnect", container, state.endpoints.values())
            state.endpoints = {}
            killpoint("exit:network-released")
            auto_remove = container.record.host.auto_remove
            if not auto_remove:
                await context.save_state_if_possible(container)
            killpoint("exit:state-written")
            if leaving is not None:
                await leaving
            killpoint("exit:shim-released")
            await self._mounts.unmount(container)
            killpoint("exit:unmounted")
            context.end_execs(container)
            attributes = {"execDuration": str(int(lived_s)), "exitCode": str(state.exit_code)}
            context.events.emit(
                "container", "die", container.id, {**container.event_attributes(), **attributes}
            )
            self._settle_waiters(container)
            container.ended.set()
            if starts_again:
                self.restarts.schedule(container)
            elif auto_remove and not container.is_coming_back:
                await self._remove_itself(container)

    def _settle_waiters(self, container: Container) -> None:
        """Tell those who wait for the container's end, by a policy's restart or not."""
        answer = ContainerWaited(status_code=container.state.exit_code)
        for waiter in list(container.waiters):
            if waiter.condition != "removed":
                waiter.settle(answer)
                container.waiters.remove(waiter)

    async def _remove_itself(self, container: Container) -> None:
        """`--rm`. What cannot be removed now is at the next start; whoever waits is told of the end all the same."""
        try:
            await self._remove(container)
        except (WherryError, OSError) as exc:
            _log.error("container %s could not be removed: %s", container.id, exc)
            answer = ContainerWaited(status_code=container.state.exit_code)
            for waiter in container.waiters:
                waiter.settle(answer)
            container.waiters.clear()

    async def remove_ended(self, container: Container) -> None:
        """Finish what `--rm` asked for, for a container that ended while there was no daemon."""
        async with container.lock:
            await self._remove(container)

    # Stopping

    async def stop(self, container: Container, *, timeout_s: int | None, signal: str | None) -> None:
        """The container has stopped, and its exit is recorded, when this returns."""
        number = parse_signal(signal) if signal else 0
        if not container.state.is_active:
            raise NotModified(f"container {container.id} is already stopped")
        container.state.is_manually_stopped = True
        await self._stop(container, timeout_s=timeout_s, number=number)
        self._context.events.emit("container", "stop", container.id, container.event_attributes())

    async def shut_down(self, container: Container) -> None:
        """As `stop`, because the daemon ends: its policy starts it again with the next one."""
        if container.state.is_active:
            await self._stop(container, timeout_s=None, number=0)
            self._context.events.emit("container", "stop", container.id, container.event_attributes())

    async def _stop(self, container: Container, *, timeout_s: int | None, number: int) -> None:
        config = container.record.config
        if not number:
            number = parse_signal(config.stop_signal) if config.stop_signal else SIGTERM
        await self._end_for_good(container)
        await self._signal(container, number)
        if container.state.status == "paused":
            await self._resume(container)
        try:
            async with asyncio.timeout(None if (limit := stop_timeout(container, timeout_s)) < 0 else limit):
                await container.ended.wait()
        except TimeoutError:
            await self._kill_and_wait(container)

    async def _end_for_good(self, container: Container) -> None:
        """Whatever its policy says, the container does not start again by itself after its end, which may have been."""
        container.is_to_end = True
        if container.state.status == "restarting":
            async with container.lock:  # a start under way is waited for
                if container.state.status == "restarting":
                    await self._end_restarts(container)
                    return
        if container.record.host.restart_policy.name == "unless-stopped" and container.state.is_running:
            await self._context.save_state_if_possible(container)  # it may end while there is no daemon
            killpoint("stop:noted")

    async def restart(self, container: Container, *, timeout_s: int | None, signal: str | None) -> None:
        number = parse_signal(signal) if signal else 0
        container.is_coming_back = True
        try:
            if container.state.is_active:
                await self._stop(container, timeout_s=timeout_s, number=number)
                self._context.events.emit("container", "stop", container.id, container.event_attributes())
        finally:
            container.is_coming_back = False
        try:
            await self.start(container)
        except NotModified:
            pass
        self._context.events.emit("container", "restart", container.id, container.event_attributes())

    async def kill(self, container: Container, number: int) -> None:
        """Send a signal to the container's first process; its end is recorded when that was SIGKILL. Docker's text
        when it does not run."""
        if not container.state.is_active:
            raise Conflict(
                f"cannot kill container: {container.name}: container {container.id} is not running"
            )
        container.state.is_manually_stopped = True
        asked = container.record.config.stop_signal
        if number == SIGKILL or not asked or parse_signal(asked) == number:
            await self._end_for_good(
                container
            )  # Docker takes these, and no others, for the wish that it ends
        await self._signal(container, number)
        if number == SIGKILL:
            await self._kill_and_wait(container, is_sent=True)

    async def kill_and_wait(self, container: Container) -> None:
        await self._end_for_good(container)
        await self._kill_and_wait(container)

    async def _kill_and_wait(self, container: Container, *, is_sent: bool = False) -> None:
        if container.state.is_running:
            if not is_sent:
                await self._signal(container, SIGKILL)
            if container.state.status == "paused":
                await self._resume(container)
        await container.ended.wait()

    async def _signal(self, container: Container, number: int) -> None:
        shim = container.shim
        if shim is None:
            return  # it is ending: the exit is on its way
        try:
            await shim.kill(number)
        except ShimGone:
            return  # the end of it is on its way
        except ShimError as exc:
            if exc.kind not in ("conflict", "not-found"):
                raise Internal(f"cannot signal container {container.id}: {exc}") from exc
        attributes = {**container.event_attributes(), "signal": str(number)}
        self._context.events.emit("container", "kill", container.id, attributes)

    # Pausing

    async def pause(self, container: Container) -> None:
        async with container.lock:
            must_not_restart(container)
            if not container.state.is_running:
                raise Conflict(f"container {container.id} is not running")
            if container.state.status == "paused":
                raise Conflict(f"Container {container.id} is already paused")
            assert container.shim is not None
            await container.shim.pause()
            container.state.become("paused")
            await self._context.save_state(container)
        self._context.events.emit("container", "pause", container.id, container.event_attributes())

    async def unpause(self, container: Container) -> None:
        if container.state.status != "paused":
            raise Internal(f"Container {container.id} is not paused")
        await self._resume(container)
        self._context.events.emit("container", "unpause", container.id, container.event_attributes())

    async def _resume(self, container: Container) -> None:
        async with container.lock:
            if container.state.status == "paused" and container.shim is not None:
                await container.shim.resume()
                container.state.become("running")
                await self._context.save_state(container)

    async def apply_limits(self, container: Container, resources: dict[str, object]) -> None:
        """Write new limits into the running container's cgroup."""
        cgroup = cgroup_for(bundle.cgroup_path(container.record, self._context.settings))
        await asyncio.to_thread(cgroup.update, resources)


class _Failed(Exception):
    """A start came to nothing, and nothing of it stays. `code`: what Docker gives as the exit code."""

    def __init__(self, error: WherryError | OSError, code: int, *, is_passing: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.code = code
        self.is_passing = is_passing


def must_not_restart(container: Container) -> None:
    """Raise Docker's Conflict for what needs a process, while the container waits for its restart."""
    if container.state.status == "restarting":
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")


def stop_timeout(container: Container, asked_s: int | None = None) -> int:
    """Seconds between the signal that asks and the one that does not; negative: for ever."""
    own = container.record.config.stop_timeout
    return asked_s if asked_s is not None else own if isinstance(own, int) else STOP_TIMEOUT_S


async def send_away(shim: Shim) -> None:
    """The shim has done its duty: cgroup and mounts are given back when this returns."""
    try:
        await shim.release()
    except (ShimError, ShimGone):
        pass  # it has gone by itself
    shim.close()


def _runtime_message(error: ShimError) -> str:
    """Docker's whole sentence: tools look for its middle, people read its end."""
    text = str(error)
    if text.startswith(("unable to find user", "unable to find group")):
        return text  # Docker finds out before it asks its runtime
    middle = text if text.startswith("unable to start") else f"unable to start container process: {text}"
    return (
        "failed to create task for container: failed to create shim task: OCI runtime create failed: "
        f"wherry-runtime create failed: {middle}"
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
