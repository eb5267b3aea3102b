"""One call of the command, and how it talks to its caller."""

from __future__ import annotations

import json
import os
import sys

from wherry.runtime import values
from wherry.runtime.command import state
from wherry.runtime.command.options import Parsed
from wherry.runtime.errors import StartFailed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "0.1.0"


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


class Exited(StartFailed):
    """A failure with an exit status of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__("internal", message)
        self.status = status


def read_json(path: str, *, missing: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except FileNotFoundError as exc:
        raise invalid(missing) from exc
    except (ValueError, RecursionError) as exc:
        raise invalid(f"{path}: {exc}") from exc
    return values.as_object(value, path)


def os_text(error: OSError, *, subject: bool = True) -> str:
    where = f"{os.fsdecode(error.filename)}: " if subject and error.filename else ""
    return where + str(error.strerror or error).lower()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    sys.stderr.write(text + "\n")
