"""How API values are read and written: Go's habits on the wire, plain Python inside.

Go matches JSON keys without regard to case, ignores unknown keys and takes `null` for any zero value; Docker's
clients rely on all three. `decode` does the same for our structs. Decoding happens once, at the border.
"""

from __future__ import annotations

from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from wherry.errors import InvalidParameter

T = TypeVar("T")

MAX_DEPTH = 64
"""Deepest nesting of a request body. Docker's own bodies reach about eight."""

MIN_INT, MAX_INT = -(2**63), 2**63 - 1

_WORDS = {
    "ip": "IP", "id": "ID", "io": "IO", "iops": "IOps", "oom": "OOM", "uts": "UTS", "cpu": "CPU",
    "ipam": "IPAM", "ipv4": "IPv4", "ipv6": "IPv6", "os": "OS", "api": "API", "rw": "RW", "ids": "IDs",
    "dns": "DNS", "cidrs": "CIDRs", "ncpu": "NCPU",
}  # fmt: skip
"""Words the API spells in capitals, where a struct asks for that with `rename=capital_words`."""


def pascal(name: str) -> str:
    """`cpu_shares` → `CpuShares`: how most of the API spells its fields."""
    return "".join(word.capitalize() for word in name.split("_"))


def capital_words(name: str) -> str:
    """`ip_prefix_len` → `IPPrefixLen`: as `pascal`, with Go's capital initialisms."""
    return "".join(_WORDS.get(word) or word.capitalize() for word in name.split("_"))


class Wire(msgspec.Struct, rename=pascal):
    """Base of all API values: fields are snake_case here, PascalCase on the wire; `field(name=…)` for the rest."""


def decode(data: bytes, kind: type[T]) -> T:
    """Read one JSON value as `kind`. Raises InvalidParameter with the path of what is wrong.

    Refused beside what JSON itself forbids: nesting beyond MAX_DEPTH, integers beyond 64 bits (Go's, and SQLite's)
    and NUL characters in strings (no path, argument or environment can hold one).
    """
    try:
        plain = msgspec.json.decode(data)
        _refuse_odd_values(plain)
        return msgspec.convert(_match_keys(plain, kind), kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidParameter(f"invalid JSON: {_shown(exc)}") from exc
    except RecursionError as exc:
        raise InvalidParameter(f"invalid JSON: nested more than {MAX_DEPTH} deep") from exc


def encode(value: object) -> bytes:
    """Write an API value as JSON."""
    return msgspec.json.encode(value)


def _shown(exc: Exception) -> str:
    # A UnicodeDecodeError carries the whole input; its text names one byte of it.
    return str(exc)[:300]


def _refuse_odd_values(plain: object) -> None:
    depth = 0
    level: list[object] = [plain]
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise InvalidParameter(f"invalid JSON: nested more than {MAX_DEPTH} deep")
        below: list[object] = []
        for value in level:
            if isinstance(value, str):
                if "\0" in value:
                    raise InvalidParameter(f"invalid JSON: string {value[:64]!r} holds a NUL character")
            elif isinstance(value, dict):
                entries = cast("dict[str, object]", value)
                below.extend(entries)
                below.extend(entries.values())
            elif isinstance(value, list):
                below.extend(cast("list[object]", value))
            elif isinstance(value, int) and not MIN_INT <= value <= MAX_INT:
                raise InvalidParameter(f"invalid JSON: number {value} does not fit into 64 bits")
        level = below


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
        if origin in (Union, UnionType):
            return _match_union(value, args)
        return value
    if isinstance(value, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        names, kinds = _struct_keys(kind)
        matched: dict[str, Any] = {}
        for key, item in cast("dict[str, Any]", value).items():
            wire = names.get(key.lower())
            if wire is not None and item is not None:
                matched[wire] = _match_keys(item, kinds[wire])
        return matched
    return cast(object, value)


def _match_union(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        is_struct = isinstance(option, type) and issubclass(option, msgspec.Struct)
        if (isinstance(value, dict) and (is_struct or get_origin(option) is dict)) or (
            isinstance(value, list) and get_origin(option) in (list, tuple)
        ):
            return _match_keys(value, option)
    return cast("Any", value)
