"""`wherry-runtime`: the command line of runc, for engines that call a runtime by it (podman, containerd).

Exit status: 0; 1 for a failure; 255 for an exec that could not start; else that of the process waited for.
"""

from __future__ import annotations

import json
import os
import time

from wherry.runtime import hooks
from wherry.runtime.command import looking, making, managing, options
from wherry.runtime.command.call import VERSION, Call, Exited, complain, os_text, say
from wherry.runtime.command.options import Parsed, Usage
from wherry.runtime.errors import StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

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


def main(words: list[str]) -> int:
    """Do what the command line says; the exit status."""
    given = Parsed()
    try:
        given = options.parse(words, _GLOBAL)
        if given.flag("version"):
            say(f"wherry-runtime version {VERSION}\nspec: {hooks.OCI_VERSION}")
            return 0
        if given.flag("help") or not given.arguments:
            say(_usage())
            return 0
        name, *rest = given.arguments
        command = _COMMANDS.get(name)
        if command is None:
            _report(given, f"No help topic for '{name}'")
            return 3
        run, known, least, most = command
        local = options.parse(rest, {**known, "help": ("h", False)})
        if local.flag("help"):
            say(_command_usage(name, known))
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
            complain(f"{path}: {os_text(exc)}")
        complain(message)
    else:
        complain(line)


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
    "create": (making.create, _MAKE, 1, 1),
    "run": (
        making.run,
        {**_MAKE, "detach": ("d", False), "keep": ("", False), "no-subreaper": ("", False)},
        1,
        1,
    ),
    "start": (making.start, {}, 1, 1),
    "state": (looking.state_of, {}, 1, 1),
    "kill": (managing.kill, {"all": ("a", False)}, 1, 2),
    "delete": (managing.delete, {"force": ("f", False)}, 1, 1),
    "exec": (
        making.execute,
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
    "list": (looking.list_all, {**_FORMAT, "quiet": ("q", False)}, 0, 0),
    "ps": (looking.processes, _FORMAT, 1, -1),
    "pause": (managing.pause, {}, 1, 1),
    "resume": (managing.resume, {}, 1, 1),
    "update": (
        managing.update,
        {**{name: ("", True) for name in managing.UPDATES}, "resources": ("r", True)},
        1,
        1,
    ),
    "spec": (looking.spec, {"bundle": ("b", True), "rootless": ("", False)}, 0, 0),
    "features": (looking.features, {}, 0, 0),
}
