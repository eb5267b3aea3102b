"""Files of `NAME=value` lines, for `--env-file` and `--label-file`."""

from __future__ import annotations

import os

SPACES = " \t\v\f\r\n"


def read_env_file(path: str, *, lookup: bool) -> list[str]:
    """The lines that say something. A name alone takes the caller's value (`lookup`), and goes if there
    is none.

    Raises OSError, and ValueError for a line that is not one.
    """
    kept: list[str] = []
    with open(path, "rb") as file:
        data = file.read()
    if data.startswith(b"\xef\xbb\xbf"):
        data = data[3:]
    for number, raw in enumerate(data.split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").rstrip("\r").lstrip(SPACES)
        except UnicodeDecodeError:
            raise ValueError(
                f"invalid env file ({path}): invalid utf8 bytes at line {number}: {raw!r}"
            ) from None
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        name = name.lstrip(SPACES)
        if any(char in name for char in SPACES):
            raise ValueError(f"invalid env file ({path}): variable '{name}' contains whitespaces")
        if not name:
            raise ValueError(f"invalid env file ({path}): no variable name on line '{line}'")
        if equals:
            kept.append(line)
        elif not lookup:
            kept.append(name)
        elif name in os.environ:
            kept.append(f"{name}={os.environ[name]}")
    return kept
