"""Driver names to code, through entry points: `overlay2` → `wherry.store.snapshots.overlay2:Overlay2`.

Built-in drivers take the same road as other people's: an entry point in one of the groups below. Names are looked
up only on use: `importlib.metadata` reads the disk.
"""

from __future__ import annotations

from typing import Any, Final

from wherry.errors import InvalidParameter

SNAPSHOTS: Final = "wherry.snapshots"
LOGS: Final = "wherry.logs"
NETWORKS: Final = "wherry.networks"


def driver_path(group: str, name: str) -> str:
    """The `module:attribute` of the driver `name`. Raises InvalidParameter that lists the known names."""
    from importlib.metadata import entry_points

    found = entry_points(group=group)
    for entry in found:
        if entry.name == name:
            return entry.value
    known = ", ".join(sorted({entry.name for entry in found})) or "none installed"
    raise InvalidParameter(f"unknown driver {name!r} in {group}: known are {known}")


def driver_names(group: str) -> list[str]:
    """The names installed in `group`, sorted."""
    from importlib.metadata import entry_points

    return sorted({entry.name for entry in entry_points(group=group)})


def load_driver(group: str, name: str) -> Any:
    """The driver's class, imported now. Raises InvalidParameter as `driver_path` does."""
    from importlib import import_module

    module, _, attribute = driver_path(group, name).partition(":")
    return getattr(import_module(module), attribute)
