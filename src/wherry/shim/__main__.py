"""`python -m wherry.shim --exec-root DIR`: start the launcher, from a sealed copy of the interpreter.

A process about to enter a container shows its executable there as /proc/PID/exe; one that could be written
would be the host's interpreter (CVE-2019-5736). So the interpreter is copied into memory, sealed, and run
from there. The second start needs no site: the first one's module path is handed on.

    --exec-root DIR             where launcher.sock is to be
    --log-driver MODULE:NAME    load this log driver too; may be given more than once
    --create MODULE:NAME        what makes containers; ours by default
    --control FD                a connection that exists already
"""

from __future__ import annotations

import fcntl
import json
import os
import sys

from wherry.shim.version import code_version

_BOOT = (
    "import json, sys; arguments = json.loads(sys.argv[1]); sys.path[:] = arguments.pop('path');"
    "from wherry.shim.launcher import main; main(**arguments)"
)
_CREATE = "wherry.runtime.lifecycle:create"
_LOG_DRIVERS = ["wherry.logs.json_file:JsonFile", "wherry.logs.none:NoLog"]
_MFD_EXEC = 0x10  # Linux 6.3: says that the copy is meant to be run, where vm.memfd_noexec asks
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed_interpreter() -> int:
    """A descriptor of a copy of the running interpreter that nobody can change any more."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        copy = os.memfd_create("wherry-shim", flags | _MFD_EXEC)
    except OSError:
        copy = os.memfd_create("wherry-shim", flags)
    source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    while os.sendfile(copy, source, None, 1 << 30):
        pass
    os.close(source)
    os.fchmod(copy, 0o500)
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    return copy


def main(argv: list[str]) -> None:
    """Read the options and become the launcher."""
    options: dict[str, list[str]] = {"--exec-root": [], "--log-driver": [], "--create": [], "--control": []}
    rest = list(argv)
    while rest:
        name = rest.pop(0)
        if name not in options or not rest:
            sys.exit(
                f"usage: wherry.shim --exec-root DIR [--log-driver MODULE:NAME]…; not understood: {name}"
            )
        options[name].append(rest.pop(0))
    if len(options["--exec-root"]) != 1:
        sys.exit("usage: wherry.shim --exec-root DIR [--log-driver MODULE:NAME]…")
    control = int(options["--control"][-1]) if options["--control"] else -1
    arguments = {
        "path": _module_path(),
        "version": code_version(),
        "exec_root": os.path.abspath(options["--exec-root"][0]),
        "create": options["--create"][-1] if options["--create"] else _CREATE,
        "log_drivers": list(dict.fromkeys(_LOG_DRIVERS + options["--log-driver"])),
        "control": control,
    }
    if control >= 0:
        os.set_inheritable(control, True)
    os.execve(
        sealed_interpreter(),
        [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps(arguments)],
        {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | _MALLOC,
    )


def _module_path() -> list[str]:
    """sys.path without the working directory, which -m puts in front."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return [
        ours,
        *(os.path.abspath(entry) for entry in sys.path[1:] if entry and os.path.abspath(entry) != ours),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
