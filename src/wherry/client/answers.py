"""Parts of an engine's decoded answer, by type: what is absent, null or of another kind is empty."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def mapping(found: Any, key: str) -> dict[str, Any]:
    """The object under `key`."""
    value: Any = found.get(key)
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def items(found: Any, key: str) -> list[Any]:
    """The list under `key`."""
    value: Any = found.get(key)
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]
