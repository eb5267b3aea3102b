"""Starting other processes in the container: afresh, or from one that was prepared.

Clients first create an exec and then start it. At the first the daemon has the shim `prepare` it: a process joins the
container, becomes the user and waits, all while the client is still reading the answer. `start` then has little
left to do. One is prepared at a time; it goes if nobody starts it within a second. What cannot be prepared is no
failure: the start does it again, and says what is wrong.
"""

from __future__ import annotations

from wherry.runtime.errors import StartFailed
from wherry.shim.pipes import Pipes
from wherry.shim.protocol import close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.shim.loop import Loop, Timer
    from wherry.shim.runtimes import Container, Prepared, Process
    from wherry.shim.stdio import Stdio

    Started = tuple[Process, Pipes | None]
    """The process and, unless it has a terminal, its pipes, of which the process has its ends."""


class Exec:
    """Another process in the container, until its last byte of output."""

    __slots__ = ("at_ns", "code", "process", "stdio")

    def __init__(self, process: Process, stdio: Stdio) -> None:
        self.process = process
        self.stdio = stdio
        self.code: int | None = None
        self.at_ns = 0


class Starter:
    """Starts execs of one container, and keeps the one that is prepared."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._waiting: _Waiting | None = None

    @property
    def prepared_pid(self) -> int:
        """0: there is none."""
        return self._waiting.prepared.pid if self._waiting is not None else 0

    def prepare(self, container: Container, process: dict[str, Any], *, stdin: bool, for_s: float) -> None:
        """It ends if it is not started within `for_s` seconds. Raises StartFailed, OSError."""
        self.discard()
        pipes = None if process.get("terminal") else Pipes(stdin=stdin)
        prepared = None
        try:
            prepared = container.prepare(process, stdio=pipes.theirs if pipes else None)
        finally:
            if pipes:
                close_all(pipes.theirs)
                if prepared is None:
                    pipes.close_ours()
        if prepared is not None:
            timer = self._loop.later(for_s, self.discard)
            self._waiting = _Waiting(process, stdin, pipes, prepared, timer)

    def start(self, container: Container, process: dict[str, Any], *, stdin: bool) -> Started:
        """Returns after execve. Raises StartFailed, OSError; then nothing is left of it."""
        waiting = self._waiting
        if waiting is not None and waiting.is_for(process, stdin=stdin):
            self._waiting = None
            waiting.timer.cancel()
            try:
                return waiting.go(process)
            except StartFailed:
                pass
        pipes = None if process.get("terminal") else Pipes(stdin=stdin)
        try:
            return container.exec(process, stdio=pipes.theirs if pipes else None), pipes
        except BaseException:
            if pipes:
                pipes.close_ours()
            raise
        finally:
            if pipes:
                close_all(pipes.theirs)

    def discard(self) -> None:
        """End what is prepared."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.timer.cancel()
            waiting.prepared.discard()
            if waiting.pipes:
                waiting.pipes.close_ours()


class _Waiting:
    __slots__ = ("pipes", "prepared", "process", "stdin", "timer")

    def __init__(
        self, process: dict[str, Any], stdin: bool, pipes: Pipes | None, prepared: Prepared, timer: Timer
    ) -> None:
        self.process = process
        self.stdin = stdin
        self.pipes = pipes
        self.prepared = prepared
        self.timer = timer

    def is_for(self, process: dict[str, Any], *, stdin: bool) -> bool:
        """But for the terminal's size, which clients tell at the start."""
        return self.stdin == stdin and _without_size(process) == _without_size(self.process)

    def go(self, process: dict[str, Any]) -> Started:
        size: dict[str, int] = process.get("consoleSize") or {}
        try:
            return self.prepared.go(height=size.get("height", 0), width=size.get("width", 0)), self.pipes
        except BaseException:
            if self.pipes:
                self.pipes.close_ours()
            raise


def _without_size(process: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in process.items() if name != "consoleSize"}
