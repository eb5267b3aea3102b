"""How API values are read and written: Go's habits on the wire, plain Python inside.

Go matches JSON keys without regard to case, ignores unknown keys and takes `null` for any zero value; Docker's
clients rely on all three. `decode` does the same for our structs. Decoding happens once, at the border.
"""

from __future__ import annotations

from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from wherry.errors import InvalidParameter

T = TypeVar("T")

MAX_DEPTH = 64
"""Deepest nesting of a request body. Docker's own bodies reach about eight."""


class Wire(msgspec.Struct, kw_only=True):
    """Base of all API values. Fields are snake_case here and `name=` gives the document's spelling."""


def decode(data: bytes, kind: type[T]) -> T:
    """Read one JSON value as `kind`. Raises InvalidParameter with the path of what is wrong."""
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(data)
    try:
        plain = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidParameter(f"invalid JSON: {exc}") from exc
    try:
        return msgspec.convert(_match_keys(plain, kind), kind)
    except msgspec.ValidationError as exc:
        raise InvalidParameter(f"invalid JSON: {exc}") from exc


def encode(value: object) -> bytes:
    """Write an API value as JSON."""
    return msgspec.json.encode(value)


def _check_depth(data: bytes) -> None:
    depth = 0
    in_string = escaped = False
    for byte in data:
        if in_string:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InvalidParameter(f"invalid JSON: nested more than {MAX_DEPTH} deep")
        elif byte in b"]}":
            depth -= 1


_keys: dict[type, tuple[dict[str, str], dict[str, Any]]] = {}


def _struct_keys(kind: type[msgspec.Struct]) -> tuple[dict[str, str], dict[str, Any]]:
    """`kind`'s wire names by their lower-case form, and their types by wire name."""
    known = _keys.get(kind)
    if known is None:
        hints = get_type_hints(kind)
        names = {f.name: f.encode_name for f in msgspec.structs.fields(kind)}
        known = (
            {wire.lower(): wire for wire in names.values()},
            {wire: hints[name] for name, wire in names.items()},
        )
        _keys[kind] = known
    return known


def _match_keys(value: Any, kind: Any) -> Any:
    """`value` with keys in `kind`'s spelling and nulls left out, so that defaults apply."""
    origin = get_origin(kind)
    if origin is not None:
        args = get_args(kind)
        if origin in (list, tuple) and isinstance(value, list):
            return [_match_keys(item, args[0]) for item in cast("list[Any]", value)]
        if origin is dict and isinstance(value, dict):
            return {k: _match_keys(v, args[1]) for k, v in cast("dict[str, Any]", value).items()}
        if origin is Union or type(kind).__name__ == "UnionType":
            for option in args:
                if (
                    isinstance(value, dict)
                    and isinstance(option, type)
                    and issubclass(option, msgspec.Struct)
                ):
                    return _match_keys(value, option)
                if get_origin(option) in (list, dict) and isinstance(value, get_origin(option)):
                    return _match_keys(value, option)
        return value
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        names, kinds = _struct_keys(kind)
        matched: dict[str, Any] = {}
        for key, item in cast("dict[str, Any]", value).items():
            wire = names.get(key.lower())
            if wire is not None and item is not None:
                matched[wire] = _match_keys(item, kinds[wire])
        return matched
    return value
