"""The functions of templates: Go's own, and docker's."""

from __future__ import annotations

from wherry.cli.template import gofmt
from wherry.cli.template.values import MISSING, Missing, Record, Struct, to_json, truth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _text(value: Any, function: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{function}: expected string; got {gofmt.type_name(value)}")
    return value


def _split(text: Any, separator: Any) -> list[str]:
    text, separator = _text(text, "split"), _text(separator, "split")
    return text.split(separator) if separator else list(text)


def _join(items: Any, separator: Any) -> str:
    if items is None:
        return ""
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"expected []string; got {gofmt.type_name(items)}")
    return _text(separator, "join").join(_text(item, "join") for item in items)  # pyright: ignore[reportUnknownVariableType]


def _title(text: Any) -> str:
    result: list[str] = []
    previous = " "
    for char in _text(text, "title"):
        starts = not (previous.isalnum() or previous in "_'")
        result.append(char.upper() if starts else char)
        previous = char
    return "".join(result)


def _pad(text: Any, before: int, after: int) -> str:
    text = _text(text, "pad")
    return " " * before + text + " " * after if text else text


def _truncate(text: Any, length: int) -> str:
    return _text(text, "truncate")[:length]


def _length(value: Any) -> int:
    if isinstance(value, (Record, Struct)) or value is None or isinstance(value, (bool, int, float, Missing)):
        raise ValueError(f"len of type {gofmt.type_name(value)}")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            if not isinstance(key, str):
                raise ValueError(f"value has type {gofmt.type_name(key)}; should be string")
            table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]
            if key in table:
                value = table[key]
            elif all(isinstance(item, str) for item in table.values()):
                value = ""  # the zero of a map of strings
            else:
                value = MISSING
        elif isinstance(value, (list, tuple, str)):
            if isinstance(key, bool) or not isinstance(key, int):
                raise ValueError(f"cannot index slice/array with type {gofmt.type_name(key)}")
            items: Any = value.encode() if isinstance(value, str) else value  # pyright: ignore[reportUnknownVariableType]
            if not 0 <= key < len(items):
                raise ValueError(f"index out of range: {key}")
            value = items[key]
        elif value is None or isinstance(value, Missing):
            raise ValueError("index of untyped nil")
        else:
            raise ValueError(f"can't index item of type {gofmt.type_name(value)}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if not isinstance(value, (list, tuple, str)):
        raise ValueError(f"can't slice item of type {gofmt.type_name(value)}")
    low = bounds[0] if bounds else 0
    high = bounds[1] if len(bounds) > 1 else len(value)  # pyright: ignore[reportUnknownArgumentType]
    for bound in (low, high):
        if not 0 <= bound <= len(value):  # pyright: ignore[reportUnknownArgumentType]
            raise ValueError(f"index out of range: {bound}")
    if low > high:
        raise ValueError(f"invalid slice index: {low} > {high}")
    return value[low:high]  # pyright: ignore[reportUnknownVariableType]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    return (
        "string"
        if isinstance(value, str)
        else "nil"
        if value is None or isinstance(value, Missing)
        else "other"
    )


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("missing argument for comparison")
    for other in others:
        kinds = _kind(first), _kind(other)
        if "nil" in kinds:
            if kinds[0] == kinds[1]:
                return True
            continue
        if kinds[0] != kinds[1]:
            raise ValueError("incompatible types for comparison")
        if "other" in kinds:
            raise ValueError("non-comparable type")
        if first == other:
            return True
    return False


def _less(first: Any, second: Any) -> bool:
    kinds = _kind(first), _kind(second)
    if kinds[0] != kinds[1]:
        raise ValueError("incompatible types for comparison")
    if kinds[0] not in ("int", "float", "string"):
        raise ValueError("invalid type for comparison")
    return first < second


def _not(value: Any) -> bool:
    return not truth(value)


def _and(*_values: Any) -> Any:  # evaluated by _logic
    raise AssertionError


def _call_function(value: Any, *_arguments: Any) -> Any:
    raise ValueError(f"non-function of type {gofmt.type_name(value)}")


ARITY: dict[str, tuple[int, bool]] = {
    **dict.fromkeys(("not", "len", "json", "title", "lower", "upper"), (1, False)),
    **dict.fromkeys(("ne", "lt", "le", "gt", "ge", "split", "join", "truncate"), (2, False)),
    **dict.fromkeys(("and", "or", "eq", "index", "slice", "printf", "call"), (1, True)),
    "pad": (3, False),
}
"""How many arguments a function takes at least, and whether it takes more."""
PARAMETERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lower", "printf", "title", "upper"), ("string",)),
    "join": ("[]string", "string"),
    "pad": ("string", "int", "int"),
    "split": ("string", "string"),
    "truncate": ("string", "int"),
}
"""What they are."""
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "or": _and,
    "not": _not,
    "eq": _equal,
    "ne": lambda first, second: not _equal(first, second),  # pyright: ignore
    "lt": _less,
    "le": lambda first, second: not _less(second, first),  # pyright: ignore
    "gt": lambda first, second: _less(second, first),  # pyright: ignore
    "ge": lambda first, second: not _less(first, second),  # pyright: ignore
    "call": _call_function,
    "index": _index,
    "slice": _slice,
    "len": _length,
    "print": gofmt.sprint,
    "println": gofmt.sprintln,
    "printf": gofmt.sprintf,
    "html": lambda *values: gofmt.escape_html(gofmt.sprint(*values)),  # pyright: ignore
    "urlquery": lambda *values: gofmt.escape_query(gofmt.sprint(*values)),  # pyright: ignore
    "js": lambda *values: gofmt.escape_js(gofmt.sprint(*values)),  # pyright: ignore
    "json": to_json,
    "split": _split,
    "join": _join,
    "title": _title,
    "lower": lambda text: _text(text, "lower").lower(),  # pyright: ignore
    "upper": lambda text: _text(text, "upper").upper(),  # pyright: ignore
    "pad": _pad,
    "truncate": _truncate,
}
