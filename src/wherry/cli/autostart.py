"""Starting the engine on first use, where nobody listens at the default address."""

from __future__ import annotations

import errno
import os
import sys
import time

from wherry.client.address import DEFAULT_SOCKET
from wherry.client.api import CannotConnect, Client
from wherry.errors import Unavailable, WherryError

START_TIMEOUT_S = 30.0
STEP_S = 0.01
ANSWER_TIMEOUT_S = 1.0
PATIENCE_S = 2.0
PIDFILE = os.path.join(os.path.dirname(DEFAULT_SOCKET), "wherryd.pid")
TAIL_LINES = 20
LOG_DIRECTORIES = ("/var/log", os.path.dirname(DEFAULT_SOCKET))


def ensure_daemon(client: Client) -> None:
    """Leave `client` connected. Starts the engine if there is none and we are root, else raises."""
    try:
        client.keep(client.connect())
    except CannotConnect as exc:
        if exc.errno not in (errno.ENOENT, errno.ECONNREFUSED) or os.geteuid() != 0:
            raise
        _start_once(client)
    else:
        if os.geteuid() == 0 and _died():
            client.close()
            _start_once(client, patience_s=PATIENCE_S)


def _died() -> bool:
    """Whether the engine was killed. Its socket is then still open, held by the launcher, and we would wait in
    its queue for an engine that nobody starts.
    """
    try:
        with open(PIDFILE, "rb") as file:
            pid = int(file.read(32))
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        pass  # stopped in order, or of another make
    return False


def _start_once(client: Client, patience_s: float = 0.0) -> None:
    """Start the engine unless another command is about to: the lock makes one of them wait for the other.

    `patience_s` is for whoever else may be starting it: a service manager after a crash.
    """
    import fcntl

    directory = os.path.dirname(DEFAULT_SOCKET)
    os.makedirs(directory, 0o711, exist_ok=True)
    lock = os.open(os.path.join(directory, "start.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _answers(client, patience_s or ANSWER_TIMEOUT_S):
            log = _log_path()
            offset = os.path.getsize(log) if os.path.exists(log) else 0
            _await(client, _spawn(daemon_command(), log), log, offset)
    finally:
        os.close(lock)


def daemon_command() -> list[str]:
    """wherryd beside this command, or the same interpreter's module."""
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), "wherryd")
    if os.access(beside, os.X_OK):
        return [beside]
    return [sys.executable, "-m", "wherry.daemon"]


def _log_path() -> str:
    for directory in LOG_DIRECTORIES:
        if os.access(directory, os.W_OK):
            return os.path.join(directory, "wherryd.log")
    return os.devnull


def _spawn(command: list[str], log: str) -> int:
    """Run a command in a session of its own, in `/`, with its output in the log; gives its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if "PYTHONPATH" in os.environ:  # its entries may be relative to where we are
            places = os.environ["PYTHONPATH"].split(os.pathsep)
            os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(place) for place in places)
        os.chdir("/")
        os.execv(command[0], command)
    except OSError as exc:
        os.write(2, f"{command[0]}: {exc}\n".encode())
    finally:
        os._exit(127)


def _answers(client: Client, timeout_s: float = ANSWER_TIMEOUT_S) -> bool:
    """Whether an engine answers. To be taken into the socket's queue is no answer."""
    try:
        connection = client.connect()
    except CannotConnect:
        return False
    try:
        connection.sock.settimeout(timeout_s)
        return connection.request("GET", "/_ping").status == 200
    except (WherryError, OSError):
        return False
    finally:
        connection.close()


def _await(client: Client, pid: int, log: str, offset: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if _answers(client):
            return
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            raise Unavailable(f"the wherry daemon ended with code {code} while starting{_tail(log, offset)}")
        time.sleep(STEP_S)
    raise Unavailable(f"the wherry daemon did not answer within {START_TIMEOUT_S:.0f} s{_tail(log, offset)}")


def _tail(log: str, offset: int) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(offset)
            lines = file.read(1024 * 1024).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    if not lines:
        return ""
    return f"; the end of {log}:\n" + "\n".join(lines[-TAIL_LINES:])
