"""The `none` driver: nothing is kept. Without a client the container's output is read and dropped."""

from __future__ import annotations

from wherry.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wherry.logs.driver import LogReader


class NoLog:
    """See driver.py."""

    readable = False
    file_name = ""

    def __init__(self, path: str, options: Mapping[str, str], attrs: Mapping[str, str]) -> None:
        pass

    @staticmethod
    def validate(options: Mapping[str, str]) -> None:
        pass

    @staticmethod
    def reader(path: str, *, since_ns: int = 0, until_ns: int = 0, tail: int = -1) -> LogReader:
        # Byte for byte Docker's.
        raise Unsupported("configured logging driver does not support reading")

    def write(self, stream: str, data: memoryview, time_ns: int) -> None:
        pass

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return -1
