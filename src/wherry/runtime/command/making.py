"""The verbs that make processes: create, start, run, exec."""

from __future__ import annotations

import os
import signal
import socket

from wherry.runtime import channel, hooks, lifecycle, values
from wherry.runtime.cgroups.systemd import parse
from wherry.runtime.command import foreground, state
from wherry.runtime.command.call import Call, Exited, complain, os_text, read_json
from wherry.runtime.command.managing import delete_forced, hook_state
from wherry.runtime.command.options import Parsed, Usage
from wherry.runtime.errors import StartFailed, invalid
from wherry.runtime.seccomp import compile_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.runtime.lifecycle import Container


def create(call: Call) -> int:
    try:
        record, container = _make(call, call.local.arguments[0])
    except StartFailed as exc:
        raise Exited(1, f"runc create failed: {exc.message}") from exc
    except OSError as exc:
        raise Exited(1, f"runc create failed: {os_text(exc)}") from exc
    del record, container  # the process lives on, and waits at its gate
    return 0


def start(call: Call) -> int:
    record = call.record()
    status = record.status()
    if status == "stopped":
        raise invalid("cannot start a container that has stopped")
    if status != "created":
        raise invalid("cannot start an already running container")
    _release(record)
    return 0


def run(call: Call) -> int:
    local = call.local
    record: state.Record | None = None
    if not local.flag("detach"):
        foreground.hold_signals()
    try:
        record, container = _make(call, local.arguments[0])
        _release(record)
    except (StartFailed, OSError) as exc:
        if record is not None:
            delete_forced(record)
        text = exc.message if isinstance(exc, StartFailed) else os_text(exc)
        raise Exited(1, f"runc run failed: {text}") from exc
    if local.flag("detach"):
        return 0
    status = foreground.wait(container.init)
    if not local.flag("keep"):
        delete_forced(record)
    return status


def execute(call: Call) -> int:
    try:
        return _exec_process(call)
    except Exited:
        raise
    except StartFailed as exc:
        raise Exited(255, f"exec failed: {exc.message}") from exc
    except OSError as exc:
        raise Exited(255, f"exec failed: {os_text(exc)}") from exc


def _make(call: Call, container_id: str) -> tuple[state.Record, Container]:
    """Create the container of the bundle; its process waits at the gate in its state directory."""
    local = call.local
    bundle = os.path.abspath(local.text("bundle", "."))
    try:
        os.chdir(bundle)
    except OSError as exc:
        raise invalid(f"chdir {local.text('bundle')}: {os_text(exc, subject=False)}") from exc
    config = read_json(f"{bundle}/config.json", missing="JSON specification file config.json not found")
    terminal = values.flag(values.child(config, "process"), "terminal")
    console_socket = local.text("console-socket")
    _check_console(terminal, console_socket, detached=_is_detached(call))
    cgroup = _cgroup_path(config, container_id, systemd=call.globals.flag("systemd-cgroup"))
    directory = state.claim(call.root, container_id)
    container: Container | None = None
    try:
        state.save(directory, container_id, config, bundle=bundle, cgroup=cgroup)
        gate = _open_gate(directory)
        container = lifecycle.create(
            config,
            container_id=container_id,
            rootfs=None,
            stdio=None,
            netns=None,
            seccomp=None,
            cgroup=cgroup,
            bundle=bundle,
            gate=gate,
            preserved=_preserved(local),
            pivot=not local.flag("no-pivot"),
            keyring=not local.flag("no-new-keyring"),
        )
        gate.close()
        record = state.save(
            directory,
            container_id,
            config,
            bundle=bundle,
            cgroup=cgroup,
            namespaces=container.namespaces,
            pid=container.init.pid,
        )
        if container.init.console >= 0 and console_socket:
            foreground.send_console(console_socket, container.init.console)
        if local.text("pid-file"):
            state.write_file(os.path.abspath(local.text("pid-file")), str(container.init.pid))
    except BaseException:
        if container is not None:
            container.signal(signal.SIGKILL)
            os.waitpid(container.init.pid, 0)
            container.destroy()
        state.remove_directory(directory)
        raise
    return record, container


def _is_detached(call: Call) -> bool:
    return call.local.flag("detach") or call.globals.arguments[0] == "create"


def _check_console(terminal: bool, console_socket: str, *, detached: bool) -> None:
    if detached and terminal and not console_socket:
        raise invalid("cannot allocate tty if runc will detach without setting console socket")
    if console_socket and not (detached and terminal):
        raise invalid("cannot use console socket if runc will not detach or allocate tty")


def _preserved(local: Parsed) -> int:
    """How many descriptors from 3 up the process shall have: --preserve-fds, and socket activation."""
    count = local.number("preserve-fds")
    if os.environ.get("LISTEN_FDS", "").isdigit():
        count += int(os.environ["LISTEN_FDS"])
    for descriptor in range(3, 3 + count):
        try:
            os.set_inheritable(descriptor, True)
        except OSError as exc:
            raise invalid(f"preserve-fds: descriptor {descriptor} is not open") from exc
    return count


def _open_gate(directory: str) -> socket.socket:
    """The socket that the first process waits on. Bound by a short name: sun_path has 108 bytes."""
    gate = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    place = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        gate.bind(f"/proc/self/fd/{place}/{state.GATE}")
        gate.listen(1)
    except BaseException:
        gate.close()
        raise
    finally:
        os.close(place)
    return gate


def _release(record: state.Record) -> None:
    """Say "start" at the gate, and wait for the execve; then the poststart hooks."""
    place = os.open(record.directory, os.O_PATH | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as starter:
            try:
                starter.connect(f"/proc/self/fd/{place}/{state.GATE}")
            except OSError as exc:
                raise invalid("cannot start an already running container") from exc
            channel.send(starter, {"go": True})
            lifecycle.await_execve(starter)
        try:
            os.unlink(state.GATE, dir_fd=place)
        except FileNotFoundError:
            pass
    finally:
        os.close(place)
    entries = hooks.parse(values.child(record.config, "hooks")).get("poststart")
    if entries:
        try:
            hooks.run(entries, hook_state(record, "running"), "poststart")
        except StartFailed as exc:
            complain(exc.message)  # the specification: logged, and the container goes on


def _exec_process(call: Call) -> int:
    local = call.local
    record = call.record()
    status = record.status()
    if status == "stopped":
        raise invalid("cannot exec in a stopped container")
    if status == "paused" and not local.flag("ignore-paused"):
        raise invalid("cannot exec in a paused container (use --ignore-paused to override)")
    if local.text("cgroup"):
        raise Usage("exec --cgroup is not supported: the process joins the container's own cgroup")
    process = _process_object(call, record)
    console_socket = local.text("console-socket")
    detached = local.flag("detach")
    _check_console(bool(process.get("terminal")), console_socket, detached=detached)
    container = record.container()
    filter_value = values.child(values.child(record.config, "linux"), "seccomp")
    container.seccomp = compile_profile(filter_value) if filter_value else None
    if not detached:
        foreground.hold_signals()
    made = container.exec(process, stdio=None, preserved=_preserved(local))
    if console_socket:
        foreground.send_console(console_socket, made.console)
    if local.text("pid-file"):
        state.write_file(os.path.abspath(local.text("pid-file")), str(made.pid))
    if detached:
        return 0
    return foreground.wait(made)


def _process_object(call: Call, record: state.Record) -> dict[str, Any]:
    """The `process` that --process names, or the container's own with what the options change."""
    local = call.local
    if local.text("process"):
        if len(local.arguments) > 1:
            raise Usage("either a process file or a command, not both")
        return read_json(
            local.text("process"), missing=f"open {local.text('process')}: no such file or directory"
        )
    if len(local.arguments) < 2:
        raise Usage("process args cannot be empty")
    process: dict[str, Any] = dict(record.config["process"])
    process["args"] = local.arguments[1:]
    process["terminal"] = local.flag("tty")
    if local.text("cwd"):
        process["cwd"] = local.text("cwd")
    if local.text("apparmor"):
        process["apparmorProfile"] = local.text("apparmor")
    if local.text("process-label"):
        process["selinuxLabel"] = local.text("process-label")
    if local.texts("cap"):
        sets = dict(process.get("capabilities") or {})
        for name in ("bounding", "effective", "permitted"):
            sets[name] = [*(sets.get(name) or []), *local.texts("cap")]
        process["capabilities"] = sets
    process["env"] = [*(process.get("env") or []), *local.texts("env")]
    if local.flag("no-new-privs"):
        process["noNewPrivileges"] = True
    if local.text("user"):
        uid, _, gid = local.text("user").partition(":")
        if not uid.isdigit() or (gid and not gid.isdigit()):
            raise Usage(f"parsing {local.text('user')} as uid[:gid] failed")
        process["user"] = {"uid": int(uid), "gid": int(gid or 0)}
    if local.texts("additional-gids"):
        user = dict(values.child(process, "user"))
        groups: list[Any] = user.get("additionalGids") or []
        user["additionalGids"] = [*groups, *(int(group) for group in local.texts("additional-gids"))]
        process["user"] = user
    return process


def _cgroup_path(config: dict[str, Any], container_id: str, *, systemd: bool) -> str:
    """linux.cgroupsPath: a path below the hierarchy's root; with --systemd-cgroup slice:prefix:name."""
    given = values.text(values.child(config, "linux"), "cgroupsPath")
    if not systemd:
        return given or f"/{container_id}"
    text = given or f"system.slice:wherry:{container_id}"
    parse(text)  # anything else is refused
    return text
