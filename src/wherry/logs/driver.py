"""What a log driver is: one class, named by an entry point of the group `wherry.logs`.

The daemon calls the class (`validate`, `reader`); the shim makes an instance of it, the writer. The shim
knows it as `module:attribute` alone, has it loaded before any container exists, and reads nothing of it
later.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Entry(NamedTuple):
    """One line, or one piece of a line that was too long or had no end."""

    time_ns: int
    stream: str
    line: bytes
    """With its newline, if it had one."""
    attrs: dict[str, str] | None


class LogWriter(Protocol):
    """Takes what the container writes, in the shim. Never raises for a full disk: the container lives."""

    def write(self, stream: str, data: memoryview, time_ns: int) -> None:
        """Log `data`, which arrived just now on "stdout" or "stderr", cut anywhere. Copies what it keeps."""
        ...

    def close(self) -> None:
        """Log what is left of unfinished lines. Nothing is written afterwards."""
        ...

    def fileno(self) -> int:
        """The file being written, or -1."""
        ...


class LogReader(Protocol):
    """Gives back what was written, in the daemon. One reader per request."""

    def entries(self) -> Iterator[Entry]:
        """The entries from where this reader stands up to the present end. Call it again later to follow."""
        ...

    def close(self) -> None: ...


class LogDriver(Protocol):
    """The class itself."""

    readable: bool
    """False: `docker logs` is refused, `reader` is never called."""
    file_name: str
    """Of the log, below the container's directory; `{id}` is its ID. Empty if there is none."""

    def __call__(self, path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> LogWriter:
        """A writer. `attrs` are the details (labels, env, tag) that go with every entry."""
        ...

    def validate(self, options: Mapping[str, str]) -> None:
        """Raise InvalidParameter for an option that is unknown or malformed. Options of options.py do not get here."""
        ...

    def reader(self, path: str, *, since_ns: int = 0, until_ns: int = 0, tail: int = -1) -> LogReader:
        """A reader of the last `tail` entries (-1: all), and of those what lies between the times (0: any)."""
        ...
