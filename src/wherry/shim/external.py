"""An external OCI runtime (runc, crun, wherry-runtime) in the place of ours, by runc's command line.

The command needs its root filesystem at a path, so it is mounted for `create` alone, in the private mount namespace
of the child that becomes the command; the container's process keeps a copy, and nothing shows on the host. The
network namespace is handed over as /proc/SHIM/fd/N. What the command starts, it leaves behind: the shim, being a
subreaper, becomes its parent. Files are kept in DIRECTORY/oci: the rewritten bundle, the command's own state.
"""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket

from wherry.linux import mounts, process
from wherry.runtime import users
from wherry.runtime.cgroups.driver import cgroup_for
from wherry.runtime.errors import INTERNAL, NOT_FOUND, PERMISSION, StartFailed
from wherry.runtime.rootfs import assemble
from wherry.shim import sockets
from wherry.shim.pipes import Pipes
from wherry.shim.protocol import close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TIMEOUT_MS = 120_000
_CONSOLE = "console.sock"
_MAX_LOG = 1 << 16


class ExternalProcess:
    """See runtimes.Process."""

    __slots__ = ("console", "pid", "pidfd")

    def __init__(self, pid: int, console: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.console = console


class ExternalContainer:
    """See runtimes.Container. Making one is OCI's "create"; afterwards nothing is left if that raises StartFailed."""

    def __init__(
        self,
        runtime: list[str],
        spec: dict[str, Any],
        *,
        container_id: str,
        directory: str,
        rootfs: dict[str, Any] | None,
        stdin: bool,
        netns: int | None,
        cgroup: str,
    ) -> None:
        self._id = container_id
        self._place = f"{directory}/oci"
        self._command = [
            *runtime,
            "--root",
            f"{self._place}/state",
            "--log",
            self._log,
            "--log-format",
            "json",
        ]
        self._execs = 0
        self.cgroup = cgroup_for(cgroup)
        self.netns = self.rootfs = self.oom_events = -1
        pipes = None if spec["process"].get("terminal") else Pipes(stdin=stdin)
        self.stdin = pipes.stdin if pipes else -1
        self.sources = pipes.sources if pipes else {}
        os.makedirs(f"{self._place}/rootfs", mode=0o700)
        bundle = _rewritten(spec, root=f"{self._place}/rootfs", cgroup=cgroup, netns=netns)
        try:
            self.rootfs = assemble(rootfs, spec, directory)
            bundle["process"] = _with_ids(spec["process"], self.rootfs)
            _write_json(f"{self._place}/config.json", bundle)
            stdio = pipes.theirs if pipes else None
            self.init = self._launch(["create", "--bundle", self._place], [], stdio=stdio, root=self.rootfs)
            self.netns = os.open(f"/proc/{self.init.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self.oom_events = self.cgroup.open_oom_events()
        except BaseException as exc:
            if pipes:
                pipes.close_ours()
            self._clear()
            if isinstance(exc, OSError):
                raise StartFailed(INTERNAL, f"{runtime[0]}: {exc}") from exc
            raise
        finally:
            if pipes:
                close_all(pipes.theirs)

    @property
    def _log(self) -> str:
        return f"{self._place}/log.json"

    def start(self) -> None:
        """Release the first process."""
        self._run(["start", self._id])

    def prepare(self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None) -> None:
        """The command cannot stop half-way."""

    def exec(self, process_object: dict[str, Any], *, stdio: tuple[int, int, int] | None) -> ExternalProcess:
        """Start another process in the container."""
        self._execs += 1
        path = f"{self._place}/process-{self._execs}.json"
        _write_json(path, _with_ids(process_object, self.rootfs))
        try:
            return self._launch(["exec", "--detach", "--process", path], [], stdio=stdio)
        finally:
            os.unlink(path)

    def signal(self, number: int, *, everything: bool = False) -> None:
        """Signal the first process, or every process of the container."""
        if everything and number == signal.SIGKILL:
            self.cgroup.kill()
            return
        if not everything:
            signal.pidfd_send_signal(self.init.pidfd, number)
            return
        for pid in self.cgroup.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def pids(self) -> list[int]:
        return self.cgroup.pids()

    def pause(self) -> None:
        self._run(["pause", self._id])

    def resume(self) -> None:
        self._run(["resume", self._id])

    def oom_kill_count(self) -> int:
        return self.cgroup.oom_kill_count()

    def destroy(self) -> None:
        """Have the command forget the container, and make sure of what it should have done."""
        try:
            self._run(["delete", "--force", self._id])
        finally:
            os.close(self.init.pidfd)
            self._clear()

    def _clear(self) -> None:
        self.cgroup.kill()
        self.cgroup.remove()
        for fd in (self.netns, self.rootfs):
            if fd >= 0:
                os.close(fd)
        self.netns = self.rootfs = -1
        _remove_tree(self._place)

    # The command

    def _launch(
        self, verb: list[str], tail: list[str], *, stdio: tuple[int, int, int] | None, root: int = -1
    ) -> ExternalProcess:
        """Run a command that leaves a process behind. Without `stdio` the process gets a terminal."""
        pid_file = f"{self._place}/pid"
        arguments = [*verb, "--pid-file", pid_file]
        listener = place = None
        try:
            if stdio is None:
                listener = sockets.listen(self._place, _CONSOLE)
                place = os.open(self._place, os.O_PATH | os.O_CLOEXEC)
                arguments += ["--console-socket", f"/proc/{os.getpid()}/fd/{place}/{_CONSOLE}"]
            self._run([*arguments, self._id, *tail], stdio=stdio, root=root)
            console = _receive_console(listener) if listener else -1
            with open(pid_file, encoding="ascii") as file:
                return ExternalProcess(int(file.read()), console)
        finally:
            if listener is not None:
                listener.close()
            if place is not None:
                os.close(place)

    def _run(
        self, arguments: list[str], *, stdio: tuple[int, int, int] | None = None, root: int = -1
    ) -> None:
        """Run the command to its end. Raises StartFailed with what it logged."""
        command = [*self._command, *arguments]
        pid = os.fork()
        if pid == 0:
            self._become(command, stdio, root)
        pidfd = os.pidfd_open(pid)
        try:
            waiter = select.poll()
            waiter.register(pidfd, select.POLLIN)
            is_late = not waiter.poll(TIMEOUT_MS)
            if is_late:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
        finally:
            os.close(pidfd)
        if is_late:
            raise StartFailed(
                INTERNAL, f"{command[0]} {arguments[0]} did not end within {TIMEOUT_MS // 1000} s"
            )
        if status != 0:
            raise self._failure(command[0], arguments[0], os.waitstatus_to_exitcode(status))

    def _become(self, command: list[str], stdio: tuple[int, int, int] | None, root: int) -> None:
        """In the child: its streams, its mounts, then the command."""
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            if root >= 0:
                process.unshare(process.CLONE_NEWNS)
                # What the host unmounts goes here too; what is mounted here stays here.
                mounts.set_propagation("/", mounts.MS_SLAVE | mounts.MS_REC)
                # The shim's descriptor stays good, though this namespace and its mounts end with the command.
                mounts.attach(root, f"{self._place}/rootfs")
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            for target, source in enumerate(stdio or (null, null, null)):
                os.dup2(source, target)
            os.execve(_found(command[0]), command, os.environ)
        except Exception as exc:
            try:
                with open(self._log, "w", encoding="utf-8") as file:
                    json.dump({"level": "error", "msg": f"{command[0]}: {exc}"}, file)
            except OSError:
                pass
        finally:
            os._exit(127)

    def _failure(self, name: str, verb: str, code: int) -> StartFailed:
        message = f"{name} {verb} ended with exit status {code}"
        try:
            with open(self._log, "rb") as file:
                for line in file.read(_MAX_LOG).splitlines():
                    entry: Any = json.loads(line)
                    if entry.get("level") in ("error", "fatal"):
                        message = str(entry["msg"])
            os.unlink(self._log)
        except (OSError, ValueError, KeyError, AttributeError):
            pass
        return StartFailed(_kind(message), message.removeprefix(f"{os.path.basename(name)} {verb} failed: "))


def _found(name: str) -> str:
    """Where the command `name` is. os.execvp would import a module at this late hour."""
    if "/" not in name:
        for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
            path = os.path.join(directory or ".", name)
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
    return name


def _remove_tree(path: str) -> None:
    """Remove what we and the command wrote. Nothing is mounted there in this namespace."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        pass  # the daemon removes the whole directory of the container


def _kind(message: str) -> str:
    """What a runtime's message says about the user's command; Docker's CLI tells by the same words."""
    if "executable file not found" in message or "no such file or directory" in message:
        return NOT_FOUND
    if "permission denied" in message or "is a directory" in message:
        return PERMISSION
    return INTERNAL


def _rewritten(spec: dict[str, Any], *, root: str, cgroup: str, netns: int | None) -> dict[str, Any]:
    """`spec` with the paths that are ours to say."""
    linux: dict[str, Any] = {**spec.get("linux", {}), "cgroupsPath": cgroup}
    if netns is not None:
        others = [entry for entry in linux.get("namespaces", []) if entry.get("type") != "network"]
        linux["namespaces"] = [*others, {"type": "network", "path": f"/proc/{os.getpid()}/fd/{netns}"}]
    return {**spec, "root": {**spec.get("root", {}), "path": root}, "linux": linux}


def _with_ids(process: dict[str, Any], root: int) -> dict[str, Any]:
    """An OCI process whose user is given by numbers: only our own runtime looks names up."""
    user: dict[str, Any] = process.get("user") or {}
    if user.get("username") is None:
        return process
    uid, gid, groups = users.resolve(root, user["username"], user.get("groupnames") or [])
    return {**process, "user": {"uid": uid, "gid": gid, "additionalGids": groups}}


def _write_json(path: str, value: object) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(value, file)


def _receive_console(listener: socket.socket) -> int:
    """The terminal's master, which the command has sent by now."""
    try:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    except OSError as exc:
        raise StartFailed(INTERNAL, f"the runtime sent no terminal: {exc}") from exc
    for _, _, content in ancillary:
        rights = array.array("i")
        rights.frombytes(content)
        return rights[0]
    raise StartFailed(INTERNAL, "the runtime sent no terminal")
