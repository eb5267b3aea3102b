"""One container's shim: keeps it, serves its streams, records how it ends. A state machine on a control
socket.

            create            start            pause
    new ──────────► created ────────► running ◄──────► paused
     │                 │  │              │    resume     │
     │ last daemon     │  │ start failed │ its process   │ killed
     │ hung up         │  └──────────┐   │ ended         │
     ▼                 │ release     ▼   ▼               │
    gone ◄─────────────┴────────── stopped ◄─────────────┘
                       release, or no daemon and nobody waits for the removal

* `start` replies only after execve. A start that failed is an exit as well (127, 126 or 128), told by the
  reply.
* An exit is told in this order: output read to its end, into the log and to clients; exit.json; the `exit`
  event; then the container's cgroup and mounts go. Whoever has seen `release` answered may use the
  container's name, cgroup and layers again.
* Daemons come and go. Each connection may send every request; events go to all. While there is none, a shim
  goes on; it ends by itself once the exit is on disk, unless a client waits for `removed`, which only a
  daemon can tell.

ARCHITECTURE.md, "Shim protocol", lists requests and events. One thread, one epoll, no import after the fork.
"""

from __future__ import annotations

import binascii
import fcntl
import os
import resource
import signal
import socket
import struct
import termios
import time

from wherry.linux.process import ended_children
from wherry.runtime import live_mounts
from wherry.runtime.errors import StartFailed
from wherry.shim import records, sockets
from wherry.shim.execs import Exec, Starter
from wherry.shim.external import ExternalContainer
from wherry.shim.kept import Kept
from wherry.shim.keys import Detacher
from wherry.shim.keys import parse as parse_keys
from wherry.shim.loop import READ, Loop
from wherry.shim.maker import Maker, read_config
from wherry.shim.peers import Peers
from wherry.shim.protocol import (
    CONFLICT,
    INVALID,
    NOT_FOUND,
    VERSION,
    Refused,
)
from wherry.shim.reports import report, whereabouts
from wherry.shim.stdio import STDERR, STDOUT, Client, Stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.logs.driver import LogWriter
    from wherry.shim.runtimes import Container, Process, Runtimes

    Message = dict[str, Any]
    Reply = tuple[Message, list[int]]

NEW, CREATED, RUNNING, PAUSED, STOPPED = "new", "created", "running", "paused", "stopped"

MAX_ENDED_EXECS = 1000
MAX_CONNECTIONS = 16
OOM_RECOUNT_S = 0.05
SPARE_DESCRIPTORS = 64
DESCRIPTORS_PER_EXEC = 4

_START_CODES = {"not-found": 127, "permission": 126}
_WINSIZE = struct.Struct("HHHH")


class Shim:
    """The whole of one shim process. `run` returns when there is nothing left to do."""

    def __init__(
        self, container_id: str, directory: str, control: socket.socket, runtimes: Runtimes, maker: Maker
    ) -> None:
        self._id = container_id
        self._directory = directory
        self._runtimes = runtimes
        self._maker = maker
        self._loop = Loop()
        self._status = NEW
        self._container: Container | None = None
        self._stdio: Stdio | None = None
        self._log: LogWriter | None = None
        self._starter = Starter(self._loop)
        self._execs: dict[str, Exec] = {}
        self._ended_execs: dict[str, Message] = {}
        self._draining: list[Stdio] = []
        self._waiters: list[tuple[str, socket.socket]] = []
        self._exit: Message | None = None
        self._ended: tuple[int, int] | None = None
        """Wait status and time of the first process, while its output is still read."""
        self._mounts: dict[str, bool] = {}
        """Targets at which something was mounted (or taken off: False) since the start."""
        self._oom_kills = 0
        self._released = False
        self._kept = Kept(self._loop)
        self._peers = Peers(
            container_id,
            self._loop,
            sockets.listen(directory, sockets.SHIM, backlog=MAX_CONNECTIONS),
            limit=MAX_CONNECTIONS,
            operations={name: getattr(self, f"_{name}") for name in _OPERATIONS},
            lost=self._on_lost,
        )
        self._loop.watch_children(self._reap)
        self._peers.add(control)

    def run(self) -> None:
        self._loop.run()

    def _on_lost(self) -> None:
        """A connection ended. When it was the last, there is no daemon: go on alone."""
        if self._peers:
            return
        if self._status == NEW:
            self._loop.stopped = True
        elif self._exit is not None:
            self._answer_waiters()

    # Operations: what each takes and gives is in ARCHITECTURE.md

    def _hello(self, request: Message, fds: list[int]) -> Reply:
        return {"version": VERSION, "pid": os.getpid(), "id": self._id}, []

    def _create(self, request: Message, fds: list[int]) -> Reply:
        self._require(NEW)
        log: Message | None = request.get("log")
        if log:
            driver = self._runtimes.log_driver(log["driver"])
            self._log = driver(log["path"], log.get("options") or {}, log.get("attrs") or {})
        self._note(request)
        container: Container
        if request.get("runtime"):
            self._maker.close()
            container = ExternalContainer(
                request["runtime"],
                read_config(request["bundle"]),
                container_id=self._id,
                directory=self._directory,
                rootfs=request.get("rootfs"),
                stdin=bool(request.get("stdin")),
                netns=fds[0] if request.get("netns") else None,
                cgroup=request["cgroup"],
            )
        else:
            container = self._maker.make(self._id, request, fds)
        self._container = container
        self._stdio = Stdio(
            self._loop,
            sources=container.sources,
            stdin=container.stdin,
            console=_take_console(container.init),
            log=self._log,
            close_stdin=bool(request.get("stdin_once")),
            on_detach=lambda: self._peers.tell("detach", exec_id=None),
        )
        self._status = CREATED
        if container.oom_events >= 0:
            self._loop.watch(container.oom_events, READ, self._on_oom)
        return {"pid": container.init.pid}, []

    def _note(self, request: Message) -> None:
        """Leave on disk what others need if this process dies: before there is anything to clean up."""
        record = {
            "id": self._id,
            "pid": os.getpid(),
            "start": records.start_time(os.getpid()),
            "version": VERSION,
            "cgroup": request["cgroup"],
            "bundle": request["bundle"],
            "runtime": request.get("runtime"),
        }
        records.write(self._directory, records.SHIM, record)

    def _start(self, request: Message, fds: list[int]) -> Reply:
        self._require(CREATED)
        container = self._get_container()
        try:
            container.start()
        except StartFailed as exc:
            self._start_failed(_START_CODES.get(exc.kind, 128), exc.message)
            raise
        except OSError as exc:
            self._start_failed(128, str(exc))
            raise
        self._status = RUNNING
        return {"pid": container.init.pid}, []

    def _start_failed(self, code: int, message: str) -> None:
        self._status = STOPPED
        self._exit = records.exit_record(code, error=message)
        self._write_exit()
        if self._stdio is not None:
            self._stdio.finish(lambda: None)
        self._destroy()

    def _keep(self, request: Message, fds: list[int]) -> Reply:
        self._require(NEW, CREATED, RUNNING, PAUSED)
        if self._ended is not None:
            raise Refused(CONFLICT, f"container {self._id} is not running")
        self._require_room(len(fds))
        self._kept.add(request.get("names") or [], fds, request.get("relay") or {})
        return {}, []

    def _drop(self, request: Message, fds: list[int]) -> Reply:
        self._kept.drop(request["names"])
        return {}, []

    def _attach(self, request: Message, fds: list[int]) -> Reply:
        self._require(CREATED, RUNNING, PAUSED)
        if self._stdio is None or self._ended is not None:
            raise Refused(CONFLICT, f"container {self._id} is not running")
        self._require_room()
        client = _client(request, fds, is_terminal=self._stdio.console >= 0)
        self._stdio.attach(client, _pending(request))
        return {}, []

    def _wait(self, request: Message, fds: list[int]) -> Reply:
        condition = request["condition"]
        if condition not in ("not-running", "next-exit", "removed"):
            raise Refused(INVALID, f"unknown condition {condition!r}")
        self._require_room()
        sock = socket.socket(fileno=fds.pop(0))
        sock.setblocking(False)
        self._waiters.append((condition, sock))
        self._loop.watch(sock.fileno(), 0, lambda _: self._drop_waiter(sock))
        return {}, []

    def _prepare(self, request: Message, fds: list[int]) -> Reply:
        self._require(RUNNING)
        if self._ended is None:
            self._require_room()
            self._starter.prepare(
                self._get_container(),
                request["process"],
                stdin=bool(request.get("stdin")),
                for_s=float(request["for_s"]),
            )
        return {}, []

    def _exec(self, request: Message, fds: list[int]) -> Reply:
        self._require(RUNNING)
        if self._ended is not None:
            raise Refused(CONFLICT, f"container {self._id} is not running")
        exec_id: str = request["exec_id"]
        if exec_id in self._execs or exec_id in self._ended_execs:
            raise Refused(CONFLICT, f"exec {exec_id} has already run")
        self._require_room()
        process = request["process"]
        is_terminal = bool(process.get("terminal"))
        pending = _pending(request)
        client = _client(request, fds, is_terminal=is_terminal) if fds else None
        stdin = bool(request.get("stdin")) and client is not None
        try:
            started, pipes = self._starter.start(self._get_container(), process, stdin=stdin)
        except BaseException:
            if client:
                client.sock.close()  # not shut down: the daemon tells the client what went wrong
            raise
        stdio = Stdio(
            self._loop,
            sources=pipes.sources if pipes else {},
            stdin=pipes.stdin if pipes else -1,
            console=_take_console(started),
            on_detach=lambda: self._peers.tell("detach", exec_id=exec_id),
        )
        if client:
            stdio.attach(client, pending)
        self._execs[exec_id] = Exec(started, stdio)
        return {"pid": started.pid}, []

    def _resize(self, request: Message, fds: list[int]) -> Reply:
        exec_id: str | None = request.get("exec_id")
        stdio = self._get_exec(exec_id).stdio if exec_id else self._stdio
        if stdio is None or stdio.console < 0:
            raise Refused(CONFLICT, "cannot resize what has no terminal")
        width, height = int(request["width"]), int(request["height"])
        if not (0 <= width < 65536 and 0 <= height < 65536):
            raise Refused(INVALID, f"invalid terminal size {width}x{height}")
        fcntl.ioctl(stdio.console, termios.TIOCSWINSZ, _WINSIZE.pack(height, width, 0, 0))
        return {}, []

    def _kill(self, request: Message, fds: list[int]) -> Reply:
        number = int(request["signal"])
        if not 0 <= number < signal.NSIG:
            raise Refused(INVALID, f"invalid signal {number}")
        exec_id: str | None = request.get("exec_id")
        try:
            if exec_id:
                process = self._get_exec(exec_id).process
                signal.pidfd_send_signal(process.pidfd, number)
            else:
                self._require(CREATED, RUNNING, PAUSED)
                self._get_container().signal(number, everything=bool(request.get("all")))
                if number == signal.SIGKILL and self._status == PAUSED:
                    self._get_container().resume()  # what is frozen (v1) would not even die
                    self._status = RUNNING
        except ProcessLookupError as exc:
            raise Refused(CONFLICT, f"container {self._id} is not running") from exc
        return {}, []

    def _pause(self, request: Message, fds: list[int]) -> Reply:
        self._require(RUNNING)
        self._starter.discard()
        self._get_container().pause()
        self._status = PAUSED
        return {}, []

    def _resume(self, request: Message, fds: list[int]) -> Reply:
        self._require(PAUSED)
        self._get_container().resume()
        self._status = RUNNING
        return {}, []

    def _mount(self, request: Message, fds: list[int]) -> Reply:
        self._require(RUNNING, PAUSED)
        entry = request["mount"]
        live_mounts.attach(self._get_container().init.pidfd, entry)
        self._mounts[entry["destination"]] = True
        return {}, []

    def _unmount(self, request: Message, fds: list[int]) -> Reply:
        self._require(RUNNING, PAUSED)
        target = request["target"]
        live_mounts.detach(self._get_container().init.pidfd, target, lazily=bool(request.get("lazily")))
        self._mounts[target] = False
        return {}, []

    def _pids(self, request: Message, fds: list[int]) -> Reply:
        self._require(CREATED, RUNNING, PAUSED)
        prepared = self._starter.prepared_pid
        return {"pids": [pid for pid in self._get_container().pids() if pid != prepared]}, []

    def _state(self, request: Message, fds: list[int]) -> Reply:
        return {
            "status": self._status,
            "pid": self._container.init.pid if self._container and self._status != STOPPED else 0,
            "execs": [
                {"exec_id": exec_id, "pid": running.process.pid, "code": None, "at_ns": 0}
                for exec_id, running in self._execs.items()
            ]
            + list(self._ended_execs.values()),
            "kept": self._kept.names(),
            "exit": self._exit,
            "mounts": self._mounts,
        }, []

    def _fds(self, request: Message, fds: list[int]) -> Reply:
        found: list[int] = []
        reply: Message = {"names": request["names"]}
        for name in request["names"]:
            if name == "waiters":
                reply["waiters"] = [condition for condition, _ in self._waiters]
                found += [sock.fileno() for _, sock in self._waiters]
                continue
            container = self._container
            known = {
                "netns": container.netns if container else -1,
                "rootfs": container.rootfs if container else -1,
                "log": self._log.fileno() if self._log else -1,
            }
            descriptor = known.get(name, -1) if name in known else self._kept.find(name)
            if descriptor < 0:
                raise Refused(NOT_FOUND, f"no descriptor {name!r}")
            found.append(descriptor)
        return reply, found

    def _release(self, request: Message, fds: list[int]) -> Reply:
        if self._status in (RUNNING, PAUSED) or (self._ended is not None and self._exit is None):
            raise Refused(CONFLICT, f"container {self._id} is still running")
        self._released = True
        if self._status == CREATED and self._stdio is not None:
            self._stdio.finish(lambda: None)
        self._destroy()
        self._loop.later(0, self._leave)  # the reply goes out first
        return {}, []

    # What happens by itself

    def _reap(self) -> None:
        """Collect every child that ended: the container's processes, execs, and orphans of either."""
        for pid, status in ended_children():
            if self._container is not None and pid == self._container.init.pid:
                self._on_init_exit(status)
                continue
            for exec_id, running in self._execs.items():
                if running.process.pid == pid and running.code is None:
                    self._on_exec_exit(exec_id, running, status)
                    break

    def _on_init_exit(self, status: int) -> None:
        if self._status == STOPPED or self._ended is not None or self._released:
            return
        self._ended = (status, time.time_ns())
        container = self._get_container()
        try:
            # Without a pid namespace of its own the others would live on, with the pipes in their hands.
            container.signal(signal.SIGKILL, everything=True)
        except (OSError, StartFailed):
            pass
        if self._stdio is not None:
            self._stdio.finish(self._on_drained)

    def _on_drained(self) -> None:
        """Everything the container wrote has reached log and clients."""
        assert self._ended is not None
        status, at_ns = self._ended
        self._status = STOPPED
        self._count_oom_kills()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        self._exit = records.exit_record(
            128 + number if number else os.WEXITSTATUS(status),
            signal=number,
            oom_killed=self._oom_kills > 0,
            at_ns=at_ns,
        )
        self._write_exit()
        self._peers.tell("exit", **self._exit)
        self._destroy()
        if not self._peers:
            self._answer_waiters()

    def _write_exit(self) -> None:
        assert self._exit is not None
        try:
            records.write(self._directory, records.EXIT, self._exit)
        except OSError as exc:  # no space, say: the daemon, if there is one, learns it all the same
            report(f"{self._id}: cannot write the exit: {exc}")

    def _on_exec_exit(self, exec_id: str, running: Exec, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        running.code = code if code >= 0 else 128 - code
        running.at_ns = time.time_ns()
        os.close(running.process.pidfd)
        running.stdio.finish(lambda: self._on_exec_drained(exec_id, running))

    def _on_exec_drained(self, exec_id: str, running: Exec) -> None:
        del self._execs[exec_id]
        if not running.stdio.is_idle:
            self._draining = [stdio for stdio in self._draining if not stdio.is_idle]
            self._draining.append(running.stdio)
        ended = {"exec_id": exec_id, "code": running.code, "at_ns": running.at_ns}
        self._ended_execs[exec_id] = {**ended, "pid": running.process.pid}
        if len(self._ended_execs) > MAX_ENDED_EXECS:
            del self._ended_execs[next(iter(self._ended_execs))]
        self._peers.tell("exec_exit", **ended)

    def _on_oom(self, _: int) -> None:
        """v1 tells before the kill, v2 of every change in memory.events: only the count is sure."""
        try:
            os.read(self._get_container().oom_events, 4096)
        except BlockingIOError:
            return
        self._count_oom_kills()
        self._loop.later(OOM_RECOUNT_S, self._count_oom_kills)

    def _count_oom_kills(self) -> None:
        """Tell of kills for want of memory that were not told of yet."""
        try:
            count = self._container.oom_kill_count() if self._container else 0
        except OSError:
            return  # the cgroup is gone
        if count > self._oom_kills:
            self._oom_kills = count
            self._peers.tell("oom")

    def _destroy(self) -> None:
        """Give back the container's cgroup, mounts, namespaces and ports."""
        self._kept.close()
        self._starter.discard()
        container = self._container
        if container is None:
            return
        if container.oom_events >= 0:
            self._loop.forget(container.oom_events)
            os.close(container.oom_events)
        try:
            container.destroy()
        except (OSError, StartFailed) as exc:
            report(f"{self._id}: cannot clean up: {exc}")
        self._container = None

    def _answer_waiters(self) -> None:
        """No daemon: tell the clients that wait for the exit. Then go, unless one waits for the removal."""
        assert self._exit is not None
        body = b'{"StatusCode":%d}\n' % self._exit["code"]
        answer = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        for condition, sock in list(self._waiters):
            if condition != "removed":
                try:
                    sock.send(answer)
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                self._drop_waiter(sock)
        if not self._waiters:
            self._leave()

    def _drop_waiter(self, sock: socket.socket) -> None:
        self._loop.forget(sock.fileno())
        self._waiters = [waiter for waiter in self._waiters if waiter[1] is not sock]
        sock.close()
        if self._exit is not None and not self._peers and not self._waiters:
            self._leave()

    def _leave(self) -> None:
        """End, as soon as no client is owed output. Also comes back by timer until that is so."""
        for _, sock in self._waiters:
            self._loop.forget(sock.fileno())
            sock.close()
        self._waiters.clear()
        if all(stdio.is_idle for stdio in self._all_stdio()):
            self._loop.stopped = True
        else:
            self._loop.later(0.05, self._leave)

    # Small things

    def _require(self, *statuses: str) -> None:
        if self._status not in statuses:
            raise Refused(CONFLICT, f"container {self._id} is {self._status}")

    def _require_room(self, wanted: int = 1) -> None:
        """Refuse what would use up the last descriptors: without any, not even daemons could be served."""
        used = len(self._waiters) + len(self._execs) * DESCRIPTORS_PER_EXEC + self._kept.descriptors
        used += sum(stdio.client_count for stdio in self._all_stdio())
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_DESCRIPTORS
        if used + wanted > limit:
            raise Refused(
                CONFLICT, f"container {self._id} has too many clients and processes attached: {used}"
            )

    def _all_stdio(self) -> list[Stdio]:
        others = [*self._draining, *(running.stdio for running in self._execs.values())]
        return [*others, self._stdio] if self._stdio is not None else others

    def _get_container(self) -> Container:
        if self._container is None:
            raise Refused(CONFLICT, f"container {self._id} is {self._status}")
        return self._container

    def _get_exec(self, exec_id: str) -> Exec:
        running = self._execs.get(exec_id)
        if running is None or running.code is not None:
            raise Refused(NOT_FOUND, f"no running exec {exec_id}")
        return running


_OPERATIONS = (
    "hello",
    "create",
    "start",
    "keep",
    "drop",
    "attach",
    "wait",
    "prepare",
    "exec",
    "resize",
    "kill",
    "pause",
    "resume",
    "mount",
    "unmount",
    "pids",
    "state",
    "fds",
    "release",
)


def _take_console(process: Process) -> int:
    """The terminal's master, which is Stdio's to close from here on."""
    console, process.console = process.console, -1
    return console


def _client(request: Message, fds: list[int], *, is_terminal: bool) -> Client:
    """The client that `request` attaches, by the first of `fds`."""
    try:
        keys = parse_keys(request.get("detach_keys") or "")
    except ValueError as exc:
        raise Refused(INVALID, str(exc)) from exc
    wants = frozenset(stream for stream in (STDOUT, STDERR) if request.get(stream))
    return Client(
        socket.socket(fileno=fds.pop(0)),
        stdin=bool(request.get("stdin")),
        wants=wants,
        mux=bool(request.get("mux")) and not is_terminal,
        detacher=Detacher(keys) if is_terminal and request.get("stdin") else None,
    )


def _pending(request: Message) -> bytes:
    return binascii.a2b_base64(request.get("pending") or "")


def serve(container_id: str, directory: str, control: socket.socket, runtimes: Runtimes, maker: Maker) -> int:
    """Be the shim of one container, with a `maker` that is ready for it. Returns the exit status: 0 if the end is on record or none is due."""
    try:
        Shim(container_id, directory, control, runtimes, maker).run()
    except Exception as exc:
        report(f"{container_id}: {whereabouts(exc)}")
        return 1
    return 0
