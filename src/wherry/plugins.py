"""Driver names to code, through entry points: `overlay2` → `wherry.store.snapshots.overlay2:Overlay2`.

Built-in drivers take the same road as other people's: an entry point in one of the groups below. Names are looked
up only on use: `importlib.metadata` reads the disk.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from wherry.errors import InvalidParameter

SNAPSHOTS: Final = "wherry.snapshots"
LOGS: Final = "wherry.logs"
NETWORKS: Final = "wherry.networks"
VOLUMES: Final = "wherry.volumes"


@cache
def _entries(group: str) -> dict[str, str]:
    """`module:attribute` by name, as installed when first asked: a look-up at every start must cost nothing."""
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=group)}


def driver_path(group: str, name: str) -> str:
    """The `module:attribute` of the driver `name`. Raises InvalidParameter that lists the known names."""
    found = _entries(group)
    if name in found:
        return found[name]
    known = ", ".join(sorted(found)) or "none installed"
    raise InvalidParameter(f"unknown driver {name!r} in {group}: known are {known}")


def driver_names(group: str) -> list[str]:
    """The names installed in `group`, sorted."""
    return sorted(_entries(group))


def load_driver(group: str, name: str) -> Any:
    """The driver's class, imported now. Raises InvalidParameter as `driver_path` does."""
    from importlib import import_module

    module, _, attribute = driver_path(group, name).partition(":")
    return getattr(import_module(module), attribute)
