"""Docker's ways of writing values into a query or a header: filters, booleans, numbers, times.

Pure functions; each refuses what it cannot read with InvalidParameter and names the value.
"""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from wherry.errors import InvalidParameter

MAX_FILTERS = 64 * 1024
"""Bytes of one `filters` value."""

_FALSE = ("", "0", "no", "false", "none")
_ATOI = re.compile(r"[+-]?[0-9]{1,19}")
_TIMESTAMP = re.compile(r"(-?[0-9]{1,12})(?:\.([0-9]{1,9})[0-9]*)?")


def flag(text: str) -> bool:
    """A boolean as Docker reads it: everything is true that is not one of five words for false."""
    return text.strip().lower() not in _FALSE


def number(text: str) -> int:
    """A decimal integer, refused in the words that Docker's users know from Go."""
    if _ATOI.fullmatch(text) is None:
        raise InvalidParameter(f'strconv.Atoi: parsing "{text[:64]}": invalid syntax')
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise InvalidParameter(f'strconv.Atoi: parsing "{text[:64]}": value out of range')
    return value


def size(text: str, what: str) -> int:
    """One side of a terminal, in Docker's words where it is none: what the kernel's struct winsize holds."""
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameter(f'invalid resize {what} "{text[:64]}": invalid syntax')
    if len(text) > 5 or int(text) > 65535:
        raise InvalidParameter(f'invalid resize {what} "{text[:64]}": value out of range')
    return int(text)


def timestamp_ns(text: str) -> int:
    """`seconds[.fraction]` since 1970 as nanoseconds: what clients make of every way to give a time."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise InvalidParameter(f'strconv.ParseInt: parsing "{text[:64]}": invalid syntax')  # Docker's text
    seconds = int(match[1]) * 1_000_000_000
    fraction = int((match[2] or "").ljust(9, "0")) if match[2] else 0
    return seconds - fraction if text.startswith("-") else seconds + fraction


def filters(text: str) -> dict[str, list[str]]:
    """`{"label":["a","b"]}`, or the older `{"label":{"a":true,"b":true}}`, as lists of values by name."""
    if not text:
        return {}
    if len(text) > MAX_FILTERS:
        raise InvalidParameter(f"invalid filter: longer than {MAX_FILTERS} bytes")
    try:
        plain = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise InvalidParameter("invalid filter") from exc  # Docker's text
    if plain is None:
        return {}
    if not isinstance(plain, dict):
        raise InvalidParameter("invalid filter")
    return {name: _values(name, value) for name, value in cast("dict[str, Any]", plain).items()}


def _values(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        # Docker's old form is a set: a name that is there counts, whatever stands beside it.
        values = list(cast("dict[str, Any]", value))
    elif isinstance(value, list):
        values = cast("list[Any]", value)
    elif value is None:
        values = []
    else:
        raise InvalidParameter(f"invalid filter {name!r}: its values must be a list")
    for item in values:
        if not isinstance(item, str):
            raise InvalidParameter(f"invalid filter {name!r}: {str(item)[:64]} is not a string")
        if "\0" in item:
            raise InvalidParameter(f"invalid filter {name!r}: {item[:64]!r} holds a NUL character")
    return cast("list[str]", values)
