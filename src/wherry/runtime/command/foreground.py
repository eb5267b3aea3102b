"""Staying with a process: relay between our terminal and its pty, pass signals on, wait."""

from __future__ import annotations

import array
import errno
import os
import select
import signal
import socket
import termios
import tty

from wherry.linux import terminals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

    from wherry.runtime.lifecycle import Process

_PASSED_ON = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGTSTP", "SIGALRM")
_CHUNK = 32768


def send_console(path: str, master: int) -> None:
    """Hand the pty's master to whoever listens on the --console-socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.connect(path)
        rights = array.array("i", [master]).tobytes()
        connection.sendmsg([b"/dev/ptmx"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def hold_signals() -> None:
    """Keep what shall be passed on until there is a process to pass it to; `wait` lets it through.

    Processes made meanwhile start with an empty mask nevertheless.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in _PASSED_ON])


def wait(process: Process) -> int:
    """Relay until the process has ended and its output is drained; its exit code, 128 + N for signal N."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        try:
            signal.pidfd_send_signal(process.pidfd, number)
        except ProcessLookupError:
            pass

    for name in _PASSED_ON:
        signal.signal(getattr(signal, name), pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if process.console >= 0:
        _relay(process.console)
    _, status = os.waitpid(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _relay(master: int) -> None:
    """Copy between our streams and the pty until its last holder closes it."""
    saved = None
    if os.isatty(0):
        saved = termios.tcgetattr(0)
        tty.setraw(0)
        _copy_size(master)
        signal.signal(signal.SIGWINCH, lambda number, frame: _copy_size(master))
    try:
        waiter = select.poll()
        waiter.register(master, select.POLLIN)
        waiter.register(0, select.POLLIN)
        while True:
            for descriptor, _ in waiter.poll():
                if descriptor == master:
                    data = _read(master)
                    if not data:
                        return
                    _write_all(1, data)
                else:
                    data = _read(0)
                    if data:
                        _write_all(master, data)
                    else:
                        waiter.unregister(0)
    finally:
        if saved is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, saved)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _CHUNK)
    except OSError as exc:
        if exc.errno == errno.EIO:  # a pty whose other side is closed
            return b""
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _copy_size(master: int) -> None:
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return
    terminals.set_size(master, size.lines, size.columns)
