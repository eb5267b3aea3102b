"""`python -m wherry.runtime`, installed as `wherry-runtime`."""

from __future__ import annotations

import sys


def main() -> None:
    from wherry.linux import executable

    # Before anything else is loaded: this may start the interpreter anew.
    executable.protect()
    from wherry.runtime.command.main import main as command

    sys.exit(command(sys.argv[1:]))


if __name__ == "__main__":
    main()
