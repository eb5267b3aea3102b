"""The launcher: everything loaded, one thread; forks a shim for each container in about a millisecond.

Outlives daemons. Keeps their listening sockets for the next one. Reaps shims, and buries the container of one
that died without writing how it ended. Ends when told to (`stop`), as soon as its last shim has gone; a
launcher that takes this one's place does the telling, and takes the sockets over, before it answers its first
daemon. Ends by itself when it has had nothing to keep (no shim, socket or daemon) for IDLE_S.

What runs here and in every shim stays as it was at the start: nothing is imported after `preload`, since
package files may be replaced under a live process; the interpreter is a sealed copy in memory (__main__.py).
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys

from wherry.linux import late_imports, process
from wherry.runtime.rehearsal import rehearse
from wherry.shim import burial, server, sockets
from wherry.shim.loop import Loop, ignore
from wherry.shim.maker import Maker, wait_for_one
from wherry.shim.peers import Peers
from wherry.shim.protocol import CONFLICT, INVALID, Channel, ProtocolError, Refused, close_all
from wherry.shim.reports import report
from wherry.shim.runtimes import Runtimes, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
    Reply = tuple[Message, list[int]]

MAX_CONNECTIONS = 64
MAX_HELD = 64
IDLE_S = 30.0
SPARE_DELAY_S = 0.02
"""How long after a start the next spare is forked: not while that start still wants the processor."""
_TAKEOVER_S = 5.0
_LATE = ("encodings.latin_1", "encodings.utf_8", "encodings.ascii")


class Spare:
    """A shim that has no container yet; it ends when `channel` closes without an order."""

    __slots__ = ("channel", "pid")

    def __init__(self, pid: int, channel: Channel) -> None:
        self.pid = pid
        self.channel = channel


def preload(create: str, log_drivers: list[str]) -> Runtimes:
    """Load what launcher and shims will ever need, and bar the rest."""
    for package in ("wherry.linux", "wherry.runtime", "wherry.runtime.cgroups"):
        __import__(package)
        for directory in sys.modules[package].__path__:
            for name in sorted(os.listdir(directory)):
                if name.endswith(".py") and not name.startswith("__"):
                    __import__(f"{package}.{name[:-3]}")
    for name in _LATE:
        __import__(name)
    drivers: dict[str, Any] = {}
    for name in log_drivers:
        try:
            drivers[name] = load(name)
        except (ImportError, AttributeError) as exc:  # someone else's, broken: its containers alone suffer
            report(f"cannot load log driver {name}: {exc}")
    runtimes = Runtimes(load(create), drivers)
    late_imports.refuse()
    return runtimes


class Launcher:
    """The one object of a launcher process."""

    def __init__(
        self, exec_root: str, runtimes: Runtimes, *, version: str, control: socket.socket | None
    ) -> None:
        self._exec_root = exec_root
        self._runtimes = runtimes
        self._version = version
        self._loop = Loop()
        self._held: dict[str, int] = {}
        self._shims: dict[int, str] = {}
        """Directory of each shim by pid; "" for a child that buries one."""
        self._stopping = False
        self._spare: Spare | None = None
        self._take_over()
        self._peers = Peers(
            "launcher",
            self._loop,
            sockets.listen(exec_root, sockets.LAUNCHER, backlog=MAX_CONNECTIONS),
            limit=MAX_CONNECTIONS,
            operations={name: getattr(self, f"_{name}") for name in _OPERATIONS},
            lost=self._on_lost,
        )
        self._loop.watch_children(self._reap)
        if control is not None:
            self._peers.add(control)

    def run(self) -> None:
        self._loop.later(SPARE_DELAY_S, self._ready_spare)
        self._loop.run()
        self._dismiss_spare()
        # The name may be a successor's by now: it is left alone, a stale socket refuses connections by
        # itself.

    def _take_over(self) -> None:
        """If another launcher is at our place, get the sockets it holds and let it end with its last shim."""
        try:
            sock = sockets.connect(self._exec_root, sockets.LAUNCHER)
        except OSError:
            return
        channel = Channel(sock)
        try:
            channel.send({"op": "hello", "seq": 0, "version": self._version})
            channel.send({"op": "take", "seq": 1})
            channel.send({"op": "stop", "seq": 2})
            while True:
                if not select.select([sock], [], [], _TAKEOVER_S)[0]:
                    raise TimeoutError("it does not answer")
                messages = channel.receive()
                if messages is None:
                    return
                for message, fds in messages:
                    if message.get("seq") == 1 and "error" not in message:
                        self._held = dict(zip(message["names"], fds, strict=True))
                    else:
                        close_all(fds)
                    if message.get("seq") == 2:
                        return
        except (OSError, ProtocolError, KeyError, ValueError) as exc:
            report(f"cannot take over from the launcher before: {exc}")
        finally:
            channel.close()

    def _on_lost(self) -> None:
        self._loop.later(IDLE_S, self._end_if_useless)

    # Operations

    def _hello(self, request: Message, fds: list[int]) -> Reply:
        return {
            "version": self._version,
            "pid": os.getpid(),
            "names": list(self._held),
            "shims": len(self._shims),
        }, []

    def _hold(self, request: Message, fds: list[int]) -> Reply:
        name = str(request["name"])
        if name not in self._held and len(self._held) >= MAX_HELD:
            raise Refused(INVALID, f"too many listening sockets: at most {MAX_HELD} can be held")
        held = fds.pop(0)
        if name in self._held:
            os.close(self._held[name])
        self._held[name] = held
        return {}, []

    def _take(self, request: Message, fds: list[int]) -> Reply:
        return {"names": list(self._held)}, list(self._held.values())

    def _drop(self, request: Message, fds: list[int]) -> Reply:
        held = self._held.pop(str(request["name"]), None)
        if held is not None:
            os.close(held)
        return {}, []

    def _stop(self, request: Message, fds: list[int]) -> Reply:
        self._stopping = True
        # From a timer: the reply goes out first.
        self._loop.later(0, self._end_if_idle)
        return {"shims": len(self._shims)}, []

    def _spawn(self, request: Message, fds: list[int]) -> Reply:
        if self._stopping:
            raise Refused(CONFLICT, "this launcher is ending: another one has taken its place")
        container_id, directory = str(request["id"]), str(request["dir"])
        spare, self._spare = self._spare or self._fork_spare(), None
        order = {"id": container_id, "dir": directory}
        try:
            try:
                spare.channel.send(order, fds)
            except OSError:  # it was killed while it waited
                spare = self._fork_spare()
                spare.channel.send(order, fds)
        finally:
            spare.channel.close()
        self._shims[spare.pid] = directory
        self._loop.later(SPARE_DELAY_S, self._ready_spare)
        return {"pid": spare.pid}, []

    # Spares: a shim, and its maker, forked before there is work for them, so that nobody waits for that

    def _ready_spare(self) -> None:
        if self._spare is None and not self._stopping:
            self._spare = self._fork_spare()

    def _fork_spare(self) -> Spare:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            self._become_shim(theirs)
        theirs.close()
        return Spare(pid, Channel(ours))

    def _dismiss_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.channel.close()
            try:
                os.waitpid(spare.pid, 0)
            except ChildProcessError:
                pass

    def _become_shim(self, orders: socket.socket) -> None:
        status = 1
        container_id = "a spare"
        try:
            gc.disable()
            self._loop.abandon()
            self._peers.abandon()
            close_all(list(self._held.values()))
            os.setsid()
            process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
            maker = Maker(self._runtimes.create, orders.close)
            order = wait_for_one(orders)
            if order is None:  # not needed any more, or the launcher died
                maker.close()
                os.wait()
                status = 0
            else:
                request, (control,) = order
                container_id = request["id"]
                sock = socket.socket(fileno=control)
                status = server.serve(container_id, request["dir"], sock, self._runtimes, maker)
        except BaseException as exc:
            report(f"{container_id}: {type(exc).__name__}: {exc}")
        finally:
            os._exit(status)

    # Children

    def _reap(self) -> None:
        """Collect shims, and orphans of those that died."""
        for pid, status in process.ended_children():
            if self._spare is not None and self._spare.pid == pid:
                self._dismiss_spare()
            directory = self._shims.pop(pid, None)
            if directory and status != 0:
                self._bury(directory, _how(status))
        self._end_if_idle()
        if not self._peers:
            self._loop.later(IDLE_S, self._end_if_useless)

    def _bury(self, directory: str, how: str) -> None:
        """In a child: it waits until the container's processes are dead."""
        report(f"the shim of {directory} {how}")
        pid = os.fork()
        if pid:
            self._shims[pid] = ""
            return
        status = 1
        try:
            self._loop.abandon()
            self._peers.abandon()
            if self._spare is not None:
                self._spare.channel.close()
            burial.bury(directory, f"its shim {how}")
            status = 0
        except BaseException as exc:
            report(f"cannot bury {directory}: {exc}")
        finally:
            os._exit(status)

    def _end_if_useless(self) -> None:
        if not (self._shims or self._held or self._peers):
            self._loop.stopped = True

    def _end_if_idle(self) -> None:
        if self._stopping and not self._shims:
            self._loop.stopped = True


def _reset_signals() -> None:
    """Containers begin with every signal at its default and none blocked, however the daemon was started (nohup)."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN and number not in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        # Not for us, by a handler, which an execve takes away again: SIG_IGN would stay.
        signal.signal(number, ignore)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"was killed by signal {os.WTERMSIG(status)}"
    return f"failed with exit status {os.WEXITSTATUS(status)}"


_OPERATIONS = ("hello", "hold", "take", "drop", "stop", "spawn")


def main(exec_root: str, *, version: str, create: str, log_drivers: list[str], control: int) -> None:
    """Be a launcher until told to stop. `version` is that of the code, code_version()."""
    runtimes = preload(create, log_drivers)
    rehearse()
    process.prctl(process.PR_SET_DUMPABLE, 0)
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    _reset_signals()
    os.umask(0o022)
    launcher = Launcher(
        exec_root,
        runtimes,
        version=version,
        control=socket.socket(fileno=control) if control >= 0 else None,
    )
    gc.collect()
    gc.freeze()
    launcher.run()
