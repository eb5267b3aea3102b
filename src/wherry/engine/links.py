"""Docker's legacy links (`--link db:store`): names and environment variables of one container in another.

On the default network only; elsewhere a link is a name that one container alone uses. What the variables are called
and hold is Docker's, as "Legacy container links" of its manual describes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from wherry.errors import InvalidParameter

_ALIAS = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_NOT_TOLD = ("HOME", "PATH")


class Port(NamedTuple):
    number: int
    protocol: str

    @classmethod
    def of(cls, text: str) -> Port:
        """From `80/tcp`."""
        number, _, protocol = text.partition("/")
        return cls(int(number), protocol or "tcp")


def parse_link(text: str) -> tuple[str, str]:
    """A container's name and what it is to be called: `db:store`, or `db` for both. Docker's texts."""
    if not text:
        raise InvalidParameter("empty string specified for links")
    name, *aliases = text.split(":")
    if len(aliases) > 1:
        raise InvalidParameter(f"bad format for links: {text}")
    alias = aliases[0] if aliases else name
    if text.startswith("/") and aliases:  # as inspect shows them: /db:/web/store
        name, alias = name.removeprefix("/"), alias.rpartition("/")[2]
    if not name or not _ALIAS.fullmatch(alias):
        raise InvalidParameter(f"bad format for links: {text}")
    return name, alias


def link_environment(
    full_name: str, address: str, ports: Iterable[str], environment: Sequence[str]
) -> list[str]:
    """The variables that tell of the container at `address`, linked as `full_name` (`/web/store`).

    `ports` are those it exposes (`80/tcp`), `environment` is what it was given.
    """
    prefix = full_name.rpartition("/")[2].upper().replace("-", "_")
    exposed = sorted(map(Port.of, ports), key=lambda port: (port.protocol != "tcp", port.number))
    told: list[str] = []
    if exposed:
        first = min(exposed, key=lambda port: (port.number, port.protocol != "tcp"))
        told.append(f"{prefix}_PORT={first.protocol}://{address}:{first.number}")
    for run in _runs(exposed):
        first, last = run[0], run[-1]
        name = f"{prefix}_PORT_{first.number}_{first.protocol.upper()}"
        if len(run) > 1:
            told += [
                f"{name}_START={first.protocol}://{address}:{first.number}",
                f"{name}_ADDR={address}",
                f"{name}_PROTO={first.protocol}",
                f"{name}_PORT_START={first.number}",
                f"{name}_END={last.protocol}://{address}:{last.number}",
                f"{name}_PORT_END={last.number}",
            ]
    for port in exposed:
        name = f"{prefix}_PORT_{port.number}_{port.protocol.upper()}"
        told += [
            f"{name}={port.protocol}://{address}:{port.number}",
            f"{name}_ADDR={address}",
            f"{name}_PORT={port.number}",
            f"{name}_PROTO={port.protocol}",
        ]
    told.append(f"{prefix}_NAME={full_name}")
    for entry in environment:
        name, equals, value = entry.partition("=")
        if equals and name not in _NOT_TOLD:
            told.append(f"{prefix}_ENV_{name}={value}")
    return told


def _runs(ports: Sequence[Port]) -> list[list[Port]]:
    """Ports whose numbers follow each other, together."""
    runs: list[list[Port]] = []
    for port in ports:
        if runs and port.number == runs[-1][-1].number + 1:
            runs[-1].append(port)
        else:
            runs.append([port])
    return runs
