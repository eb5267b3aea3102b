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
    from wherry.cli.dispatch import run

    code = run(sys.argv[1:], os.environ)
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 1
    os._exit(code)


if __name__ == "__main__":
    main()
