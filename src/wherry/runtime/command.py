"""`wherry-runtime`: the command line of runc, for engines that call a runtime by it (podman, containerd).

Exit status: 0; 1 for a failure; 255 for an exec that could not start; else that of the process waited for.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time

from wherry.runtime import channel, example, foreground, hooks, lifecycle, options, state, values
from wherry.runtime.cgroups.systemd import parse
from wherry.runtime.errors import StartFailed, invalid
from wherry.runtime.options import Parsed, Usage
from wherry.runtime.seccomp import compile_profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.runtime.lifecycle import Container, Process

VERSION = "0.1.0"
_STOP_TIMEOUT_S = 10.0
_GLOBAL: options.Options = {
    "root": ("", True),
    "log": ("", True),
    "log-format": ("", True),
    "debug": ("", False),
    "systemd-cgroup": ("", False),
    "rootless": ("", True),
    "criu": ("", True),
    "version": ("v", False),
    "help": ("h", False),
}
_MAKE: options.Options = {
    "bundle": ("b", True),
    "console-socket": ("", True),
    "pid-file": ("", True),
    "preserve-fds": ("", True),
    "no-pivot": ("", False),
    "no-new-keyring": ("", False),
}


class Call:
    """One call of the command: global options, and the command's own."""

    __slots__ = ("globals", "local")

    def __init__(self, global_options: Parsed, local: Parsed) -> None:
        self.globals = global_options
        self.local = local

    @property
    def root(self) -> str:
        given = self.globals.text("root")
        if given:
            return os.path.abspath(given)
        if os.geteuid() and os.environ.get("XDG_RUNTIME_DIR"):
            return os.environ["XDG_RUNTIME_DIR"] + "/wherry-runtime"
        return "/run/wherry-runtime"

    def record(self) -> state.Record:
        return state.load(self.root, self.local.arguments[0])


def main(words: list[str]) -> int:
    """Do what the command line says; the exit status."""
    given = Parsed()
    try:
        given = options.parse(words, _GLOBAL)
        if given.flag("version"):
            _say(f"wherry-runtime version {VERSION}\nspec: {hooks.OCI_VERSION}")
            return 0
        if given.flag("help") or not given.arguments:
            _say(_usage())
            return 0
        name, *rest = given.arguments
        command = _COMMANDS.get(name)
        if command is None:
            _report(given, f"No help topic for '{name}'")
            return 3
        run, known, least, most = command
        local = options.parse(rest, {**known, "help": ("h", False)})
        if local.flag("help"):
            _say(_command_usage(name, known))
            return 0
        _check_count(name, len(local.arguments), least, most)
        return run(Call(given, local))
    except Exited as exc:
        _report(given, exc.message)
        return exc.status
    except StartFailed as exc:
        _report(given, exc.message)
    except OSError as exc:
        subject = f"{os.fsdecode(exc.filename)}: " if exc.filename else ""
        _report(given, f"{subject}{str(exc.strerror or exc).lower()}")
    except Exception as exc:
        if given.flag("debug"):
            raise
        _report(given, f"internal error (--debug shows where): {type(exc).__name__}: {exc}")
    return 1


class Exited(StartFailed):
    """A failure with an exit status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__("internal", message)
        self.status = status


def _create(call: Call) -> int:
    try:
        record, container = _make(call, call.local.arguments[0])
    except StartFailed as exc:
        raise Exited(1, f"runc create failed: {exc.message}") from exc
    except OSError as exc:
        raise Exited(1, f"runc create failed: {_os_text(exc)}") from exc
    del record, container  # the process lives on, and waits at its gate
    return 0


def _start(call: Call) -> int:
    record = call.record()
    status = record.status()
    if status == "stopped":
        raise invalid("cannot start a container that has stopped")
    if status != "created":
        raise invalid("cannot start an already running container")
    _release(record)
    return 0


def _run(call: Call) -> int:
    local = call.local
    record: state.Record | None = None
    if not local.flag("detach"):
        foreground.hold_signals()
    try:
        record, container = _make(call, local.arguments[0])
        _release(record)
    except (StartFailed, OSError) as exc:
        if record is not None:
            _delete_forced(record)
        text = exc.message if isinstance(exc, StartFailed) else _os_text(exc)
        raise Exited(1, f"runc run failed: {text}") from exc
    if local.flag("detach"):
        return 0
    status = foreground.wait(container.init)
    if not local.flag("keep"):
        _delete_forced(record)
    return status


def _make(call: Call, container_id: str) -> tuple[state.Record, Container]:
    """Create the container of the bundle; its process waits at the gate in its state directory."""
    local = call.local
    bundle = os.path.abspath(local.text("bundle", "."))
    try:
        os.chdir(bundle)
    except OSError as exc:
        raise invalid(f"chdir {local.text('bundle')}: {_os_text(exc, subject=False)}") from exc
    config = _read_json(f"{bundle}/config.json", missing="JSON specification file config.json not found")
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
            hooks.run(entries, _hook_state(record, "running"), "poststart")
        except StartFailed as exc:
            _complain(exc.message)  # the specification: logged, and the container goes on


def _hook_state(record: state.Record, status: str) -> dict[str, Any]:
    shown = record.shown()
    result = {key: shown[key] for key in ("ociVersion", "id", "pid", "bundle")}
    result["status"] = status
    if "annotations" in shown:
        result["annotations"] = shown["annotations"]
    return result


def _state(call: Call) -> int:
    _say(json.dumps(call.record().shown(), indent=2))
    return 0


def _list(call: Call) -> int:
    records = state.load_all(call.root)
    if call.local.flag("quiet"):
        for record in records:
            _say(record.id)
        return 0
    shown = [{**record.shown(), "owner": "root"} for record in records]
    if call.local.text("format", "table") == "json":
        _say(json.dumps(shown, separators=(",", ":")))
        return 0
    rows = [["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]]
    rows += [
        [str(each[key]) for key in ("id", "pid", "status", "bundle", "created", "owner")] for each in shown
    ]
    widths = [max(12, *(len(row[column]) + 3 for row in rows)) for column in range(len(rows[0]))]
    for row in rows:
        _say("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _kill(call: Call) -> int:
    record = call.record()
    arguments = call.local.arguments
    number = _signal(arguments[1] if len(arguments) > 1 else "SIGTERM")
    if call.local.flag("all"):
        group = record.group()
        if number == signal.SIGKILL:
            group.kill()
            return 0
        for pid in group.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        return 0
    if not record.is_alive():
        raise invalid("container not running")
    container = record.container()
    container.signal(number)
    if number == signal.SIGKILL and record.group().is_frozen():
        container.cgroup.thaw()  # a frozen process does not even die
    return 0


def _delete(call: Call) -> int:
    forced = call.local.flag("force")
    try:
        record = call.record()
    except state.NoContainer:
        if forced:
            state.remove_directory(os.path.join(call.root, state.check_id(call.local.arguments[0])))
            return 0
        raise
    status = record.status()
    if status in ("stopped", "created") or forced:
        _delete_forced(record)
        return 0
    raise invalid(f"cannot delete container {record.id} that is not stopped: {status}")


def _delete_forced(record: state.Record) -> None:
    """Kill what lives, and leave nothing: cgroup, state, and what the poststop hooks clean up."""
    try:
        container = record.container()
    except StartFailed:
        container = None
    group = record.group()
    if container is not None:
        container.signal(signal.SIGKILL)
        group.thaw()
    group.kill()
    if container is not None:
        _await_end(container.init)
    group.remove()
    entries = hooks.parse(values.child(record.config, "hooks")).get("poststop")
    if entries:
        try:
            hooks.run(entries, _hook_state(record, "stopped"), "poststop")
        except StartFailed as exc:
            _complain(exc.message)
    record.remove()


def _await_end(process: Process) -> None:
    """Wait until the process is dead, whoever's child it is."""
    waiter = select.poll()
    waiter.register(process.pidfd, select.POLLIN)
    if not waiter.poll(_STOP_TIMEOUT_S * 1000):
        raise StartFailed("internal", f"process {process.pid} does not die")


def _exec(call: Call) -> int:
    try:
        return _exec_process(call)
    except Exited:
        raise
    except StartFailed as exc:
        raise Exited(255, f"exec failed: {exc.message}") from exc
    except OSError as exc:
        raise Exited(255, f"exec failed: {_os_text(exc)}") from exc


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
        return _read_json(
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


def _pause(call: Call) -> int:
    record = call.record()
    if record.status() not in ("running", "created"):
        raise invalid("container not running or created: " + record.status())
    record.group().freeze()
    return 0


def _resume(call: Call) -> int:
    record = call.record()
    if record.status() != "paused":
        raise invalid("container not paused")
    record.group().thaw()
    return 0


def _ps(call: Call) -> int:
    record = call.record()
    pids = record.group().pids()
    if call.local.text("format", "table") == "json":
        _say(json.dumps(pids))
        return 0
    rows = [["UID", "PID", "PPID", "CMD"]]
    for pid in pids:
        row = _process_row(pid)
        if row is not None:
            rows.append(row)
    for row in rows:
        _say(f"{row[0]:<8} {row[1]:>7} {row[2]:>7} {row[3]}")
    return 0


def _process_row(pid: int) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            words = file.read().replace("\0", " ").rstrip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return [fields["Uid"].split("\t")[0], str(pid), fields["PPid"], words or f"[{fields['Name']}]"]


def _update(call: Call) -> int:
    record = call.record()
    local = call.local
    if local.text("resources"):
        if local.text("resources") == "-":
            resources: dict[str, Any] = json.load(sys.stdin)
        else:
            resources = _read_json(
                local.text("resources"), missing=f"open {local.text('resources')}: no such file"
            )
    else:
        resources = {"memory": {}, "cpu": {}, "pids": {}}
        for option, (part, key) in _UPDATES.items():
            text = local.text(option)
            if text:
                resources[part][key] = text if key in ("cpus", "mems") else _bytes(text)
    record.group().update(resources)
    return 0


_UPDATES = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "cpu-share": ("cpu", "shares"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "pids-limit": ("pids", "limit"),
}


def _bytes(text: str) -> int:
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    unit = units.get(text[-1:].lower(), 1)
    try:
        return int(text[:-1] if unit > 1 else text) * unit
    except ValueError as exc:
        raise Usage(f"invalid value {text!r}: want a number, or one with k, m or g") from exc


def _spec(call: Call) -> int:
    path = os.path.join(call.local.text("bundle", "."), "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(json.dumps(example.config(), indent="\t") + "\n")
    except FileExistsError as exc:
        raise invalid("File config.json exists. Remove it first") from exc
    return 0


def _features(call: Call) -> int:
    _say(json.dumps(example.features(VERSION), indent=4))
    return 0


def _cgroup_path(config: dict[str, Any], container_id: str, *, systemd: bool) -> str:
    """linux.cgroupsPath: a path below the hierarchy's root; with --systemd-cgroup slice:prefix:name."""
    given = values.text(values.child(config, "linux"), "cgroupsPath")
    if not systemd:
        return given or f"/{container_id}"
    text = given or f"system.slice:wherry:{container_id}"
    parse(text)  # anything else is refused
    return text


def _read_json(path: str, *, missing: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError as exc:
        raise invalid(missing) from exc
    except (ValueError, RecursionError) as exc:
        raise invalid(f"{path}: {exc}") from exc
    return values.as_object(value, path)


def _signal(text: str) -> int:
    name = text.upper()
    if text.isdigit() and 0 <= int(text) < signal.NSIG:
        return int(text)
    number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if isinstance(number, signal.Signals):
        return int(number)
    raise invalid(f'unknown signal "{text}"')


def _os_text(error: OSError, *, subject: bool = True) -> str:
    where = f"{os.fsdecode(error.filename)}: " if subject and error.filename else ""
    return where + str(error.strerror or error).lower()


def _report(given: Parsed, message: str) -> None:
    """Where the caller looks for it: the file of --log, in its format, and standard error."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if given.text("log-format", "text") == "json":
        line = json.dumps({"level": "error", "msg": message, "time": when}, separators=(",", ":"))
    else:
        line = f'time="{when}" level=error msg={json.dumps(message, ensure_ascii=False)}'
    path = given.text("log")
    if path and path != "/dev/stderr":
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as exc:
            _complain(f"{path}: {_os_text(exc)}")
        _complain(message)
    else:
        _complain(line)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(text: str) -> None:
    sys.stderr.write(text + "\n")


def _check_count(name: str, count: int, least: int, most: int) -> None:
    if least == most != count:
        raise Usage(f'runc: "{name}" requires exactly {least} argument(s)')
    if count < least:
        raise Usage(f'runc: "{name}" requires a minimum of {least} argument(s)')
    if 0 <= most < count:
        raise Usage(f'runc: "{name}" requires a maximum of {most} argument(s)')


def _usage() -> str:
    lines = [
        "USAGE: wherry-runtime [global options] command [command options] [arguments...]",
        "",
        "COMMANDS:",
    ]
    lines += [f"   {name}" for name in _COMMANDS]
    lines += [
        "",
        "GLOBAL OPTIONS:",
        *(f"   --{name}{' value' if value else ''}" for name, (_, value) in _GLOBAL.items()),
    ]
    return "\n".join(lines)


def _command_usage(name: str, known: options.Options) -> str:
    lines = [f"USAGE: wherry-runtime {name} [options] [arguments...]", "", "OPTIONS:"]
    lines += [f"   --{option}{' value' if value else ''}" for option, (_, value) in known.items()]
    return "\n".join(lines)


_FORMAT: options.Options = {"format": ("f", True)}
# what it runs, its options, least and most arguments (-1: any number)
_COMMANDS: dict[str, tuple[Callable[[Call], int], options.Options, int, int]] = {
    "create": (_create, _MAKE, 1, 1),
    "run": (_run, {**_MAKE, "detach": ("d", False), "keep": ("", False), "no-subreaper": ("", False)}, 1, 1),
    "start": (_start, {}, 1, 1),
    "state": (_state, {}, 1, 1),
    "kill": (_kill, {"all": ("a", False)}, 1, 2),
    "delete": (_delete, {"force": ("f", False)}, 1, 1),
    "exec": (
        _exec,
        {
            "console-socket": ("", True),
            "cwd": ("", True),
            "env": ("e", True),
            "tty": ("t", False),
            "user": ("u", True),
            "additional-gids": ("g", True),
            "process": ("p", True),
            "detach": ("d", False),
            "pid-file": ("", True),
            "process-label": ("", True),
            "apparmor": ("", True),
            "no-new-privs": ("", False),
            "cap": ("c", True),
            "preserve-fds": ("", True),
            "cgroup": ("", True),
            "ignore-paused": ("", False),
        },
        1,
        -1,
    ),
    "list": (_list, {**_FORMAT, "quiet": ("q", False)}, 0, 0),
    "ps": (_ps, _FORMAT, 1, -1),
    "pause": (_pause, {}, 1, 1),
    "resume": (_resume, {}, 1, 1),
    "update": (_update, {**{name: ("", True) for name in _UPDATES}, "resources": ("r", True)}, 1, 1),
    "spec": (_spec, {"bundle": ("b", True), "rootless": ("", False)}, 0, 0),
    "features": (_features, {}, 0, 0),
}
