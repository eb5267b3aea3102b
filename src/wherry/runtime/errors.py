"""What the runtime refuses to do and what failed inside a container, in one exception that travels between processes."""

from __future__ import annotations

import errno
import os

NOT_FOUND = "not-found"
PERMISSION = "permission"
INVALID = "invalid"
INTERNAL = "internal"


class StartFailed(Exception):
    """A container or process could not be made or started; `message` is what runc would print after its prefix."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def go_text(error: OSError) -> str:
    """The error's text as Go prints it, which Docker's users match on: lower case."""
    return os.strerror(error.errno or 0).lower()


def kind_of(error: OSError) -> str:
    """The kind of a failed call that concerns a path the user named."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NOT_FOUND
    if error.errno in (errno.EACCES, errno.EPERM):
        return PERMISSION
    return INTERNAL


def failed(step: str, error: OSError) -> StartFailed:
    """`error` as the failure of a step of the set-up: `unable to start container process: STEP: …`."""
    subject = f" {os.fsdecode(error.filename)}" if error.filename else ""
    text = str(error.strerror or error).lower() if error.errno else str(error)
    return StartFailed(
        INTERNAL, f"unable to start container process: error during container init: {step}{subject}: {text}"
    )


def invalid(message: str) -> StartFailed:
    """The bundle asks for something that makes no sense or that is refused."""
    return StartFailed(INVALID, message)


def quote(text: str) -> str:
    """As Go's %q does for the texts that occur here."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
