"""The `wherry` command. Starting matters more here than anywhere: everything else is imported when needed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line in `sys.argv` and leave the process.

    The process ends at once, without tearing the interpreter down: there is nothing left to do and that takes
    longer than many a command.
    """
    import gc
    import os

    gc.disable()  # a command's garbage is smaller than the cost of looking for it
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_standard_streams()
    from wherry.cli.dispatch import run

    code = run(sys.argv[1:], os.environ)
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 1
    os._exit(code)


def _open_standard_streams() -> None:
    """Put /dev/null where we were started without a standard stream: else a connection of ours would become it."""
    import os

    while os.open(os.devnull, os.O_RDWR) < 2:
        pass
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115 - open as long as we are
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


if __name__ == "__main__":
    main()
