"""The three pipes of a process without a terminal."""

from __future__ import annotations

import os

from wherry.shim.protocol import close_all
from wherry.shim.stdio import STDERR, STDOUT


class Pipes:
    """`theirs` are the process's descriptors 0 to 2; `stdin` and `sources` are the ends for Stdio."""

    __slots__ = ("sources", "stdin", "theirs")

    def __init__(self, *, stdin: bool) -> None:
        self.stdin = -1
        if stdin:
            their_stdin, self.stdin = os.pipe2(os.O_CLOEXEC)
        else:
            their_stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        stdout, their_stdout = os.pipe2(os.O_CLOEXEC)
        stderr, their_stderr = os.pipe2(os.O_CLOEXEC)
        self.sources = {STDOUT: stdout, STDERR: stderr}
        self.theirs = (their_stdin, their_stdout, their_stderr)

    def close_ours(self) -> None:
        """The process never came to be."""
        close_all([*self.sources.values(), *([self.stdin] if self.stdin >= 0 else [])])
