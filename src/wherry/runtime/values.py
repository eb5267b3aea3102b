"""Reading JSON objects whose shape is not to be trusted: each function gives one key's value with its type, a
default for an absent or null one, and refuses any other type by name.
"""

from __future__ import annotations

from wherry.runtime.errors import StartFailed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, cast
else:

    def cast(kind, value):
        return value


def text(entry: dict[str, Any], key: str, default: str = "") -> str:
    value = entry.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or "\0" in value:
        raise _wrong(key, value, "a string")
    return value


def texts(entry: dict[str, Any], key: str) -> list[str]:
    found: list[str] = []
    for value in _list(entry, key):
        if not isinstance(value, str) or "\0" in value:
            raise _wrong(key, value, "a list of strings")
        found.append(value)
    return found


def flag(entry: dict[str, Any], key: str) -> bool:
    value = entry.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise _wrong(key, value, "true or false")
    return value


def number(entry: dict[str, Any], key: str) -> int | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(key, value, "an integer")
    return value


def child(entry: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`, {} when there is none."""
    value = entry.get(key)
    if value is None:
        return {}
    return as_object(value, key)


def children(entry: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [as_object(value, key) for value in _list(entry, key)]


def mapping(entry: dict[str, Any], key: str) -> dict[str, str]:
    """An object whose values are all strings."""
    found: dict[str, str] = {}
    for name, value in child(entry, key).items():
        if not isinstance(value, str) or "\0" in value:
            raise _wrong(f"{key}.{name}", value, "a string")
        found[name] = value
    return found


def as_object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(what, value, "an object")
    return cast("dict[str, Any]", value)


def _list(entry: dict[str, Any], key: str) -> list[Any]:
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(key, value, "a list")
    return cast("list[Any]", value)


def _wrong(key: str, value: object, wanted: str) -> StartFailed:
    shown = repr(value)
    return invalid(f"invalid {key} {shown if len(shown) < 100 else shown[:97] + '...'}: want {wanted}")
