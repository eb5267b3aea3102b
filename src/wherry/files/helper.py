"""The helper process: everything loaded, one thread; forks a view for each container that is looked into.

On its control socket (SOCK_SEQPACKET, one JSON object a message):

    daemon → helper   {"view": number, …} with descriptors: the view's own socket, then what it needs
    helper → daemon   {"ended": number}            the view, its jobs and its mounts are gone

On a view's socket:

    view → daemon     {"ready": true}, or what failed (jobs.failure); then it ends
    daemon → view     {"job": …} with two descriptors: where to talk, where the archive goes or comes from

A view ends when its socket is closed, and ends its jobs. The helper ends with the daemon. Nothing is imported after
the start: files of the package may be replaced meanwhile, and a view sees the container's files in their place.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from typing import Any, Final

import msgspec

from wherry.files import jobs
from wherry.files.view import View, enter_layer, enter_running, enter_stopped
from wherry.linux import late_imports, process
from wherry.runtime import rootfs

MAX_MESSAGE: Final = 1 << 20
_MAX_FDS: Final = 4
_LATE: Final = ("encodings.utf_8", "encodings.ascii", "encodings.latin_1", "encodings.idna", "stringprep")

Message = dict[str, Any]


def main(control: int) -> None:
    """Serve the daemon on the socket `control` until it hangs up."""
    for name in _LATE:
        __import__(name)
    rootfs.takes_names()
    late_imports.refuse()
    sys.setrecursionlimit(50_000)
    process.prctl(process.PR_SET_DUMPABLE, 0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends with the daemon, not beside it
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    wakes, woken = socket.socketpair()
    for each in (wakes, woken):
        each.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _wake)
    os.chdir("/")
    gc.collect()
    gc.freeze()
    _Helper(socket.socket(fileno=control), wakes, woken).run()


def _wake(number: int, frame: object) -> None:
    """A handler, so that the wake-up descriptor is written to."""


class _Helper:
    def __init__(self, control: socket.socket, wakes: socket.socket, woken: socket.socket) -> None:
        self._control = control
        self._wakes = wakes
        self._woken = woken
        self._views: dict[int, int] = {}  # pid → number

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wakes, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._wakes.fileno():
                    self._reap()
                    continue
                order, descriptors = receive(self._control)
                if order is None:
                    return
                self._open_view(order, descriptors)

    def _open_view(self, order: Message, descriptors: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                for each in (self._control, self._wakes, self._woken):
                    each.close()
                serve_view(order, descriptors)
            finally:
                os._exit(0)
        self._views[pid] = order["view"]
        for descriptor in descriptors:
            os.close(descriptor)

    def _reap(self) -> None:
        try:
            while self._wakes.recv(4096):
                pass
        except BlockingIOError:
            pass
        for pid, _ in process.ended_children():
            number = self._views.pop(pid, None)
            if number is not None:
                self._control.send(jobs.encode({"ended": number}))


def serve_view(order: Message, descriptors: list[int]) -> None:
    """Be a view until its socket is closed."""
    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
    sock = socket.socket(fileno=descriptors[0])
    try:
        view = _enter(order, descriptors[1:])
    except BaseException as exc:
        sock.send(jobs.encode(jobs.failure(exc)))
        return
    sock.send(jobs.encode({"ready": True}))
    children: list[int] = []
    try:
        while True:
            job, given = receive(sock)
            if job is None:
                return
            children = [pid for pid in children if not _has_ended(pid)]
            pid = os.fork()
            if pid == 0:
                try:
                    process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
                    sock.close()
                    jobs.run(view, job, socket.socket(fileno=given[0]), given[1])
                finally:
                    os._exit(0)
            children.append(pid)
            for descriptor in given:
                os.close(descriptor)
    finally:
        for pid in children:
            if not _has_ended(pid):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _enter(order: Message, descriptors: list[int]) -> View:
    """`descriptors`: of a running container its mount namespace, of a stopped one the lock that keeps it stopped."""
    kind = order["kind"]
    if kind == "running":
        return enter_running(descriptors[0], read_only=order["read_only"])
    if kind == "stopped":
        return enter_stopped(order["rootfs"], order["mounts"], read_only=order["read_only"])
    return enter_layer(order["tree"], order["lower"], is_full=order["is_full"])


def _has_ended(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def receive(sock: socket.socket) -> tuple[Message | None, list[int]]:
    """The next message and its descriptors; None at the end."""
    try:
        data, descriptors, _, _ = socket.recv_fds(sock, MAX_MESSAGE, _MAX_FDS)
    except ConnectionResetError:
        return None, []
    if not data:
        return None, []
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return msgspec.json.decode(data), descriptors
