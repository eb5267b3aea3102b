"""Filters of `docker images` and `docker image prune`, as decisions without I/O. Errors are Docker's texts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from wherry.errors import InvalidParameter
from wherry.oci.reference import Reference

Filters = Mapping[str, Sequence[str]]

LIST_FILTERS = frozenset(("dangling", "label", "before", "since", "reference", "until"))
PRUNE_FILTERS = frozenset(("dangling", "label", "label!", "until"))

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_TIMESTAMP = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}(?::\d{2}(?::\d{2}(?:\.\d{1,9})?)?)?))?(Z|[+-]\d{2}:\d{2})?", re.ASCII
)


def check_names(filters: Filters, known: frozenset[str]) -> None:
    """Raise InvalidParameter for the first filter that is not `known`."""
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def truth(filters: Filters, name: str, default: bool) -> bool:
    """A boolean filter's value. Raises InvalidParameter for anything but true, 1, false and 0, or for both."""
    values = filters.get(name, ())
    if not values:
        return default
    is_true = any(value in ("1", "true") for value in values)
    is_false = any(value in ("0", "false") for value in values)
    if is_true == is_false:
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
    return is_true


def has_labels(wanted: Sequence[str], labels: Mapping[str, str]) -> bool:
    """Whether all of `wanted`, each `key` or `key=value`, are among `labels`."""
    for item in wanted:
        key, equals, value = item.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    return True


def until_ns(filters: Filters) -> int | None:
    """The earliest time `until` names, in nanoseconds since 1970."""
    return min((parse_time_ns(value) for value in filters.get("until", ())), default=None)


def parse_time_ns(text: str, *, now_ns: int | None = None) -> int:
    """A moment: `10m` or `1h30m` ago, seconds since 1970 with a fraction, or a date and time (local without zone).

    Raises InvalidParameter.
    """
    if match := re.fullmatch(r"(\d{1,18})(?:\.(\d{1,9}))?", text, re.ASCII):
        return int(match[1]) * 10**9 + int((match[2] or "").ljust(9, "0"))
    past = _duration_ns(text)
    if past is not None:
        return (time.time_ns() if now_ns is None else now_ns) - past
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"')
    clock = (match[2] or "00:00:00").ljust(2, "0")
    seconds, _, fraction = clock.partition(".")
    seconds += ":00" * (2 - seconds.count(":"))
    try:
        moment = datetime.fromisoformat(f"{match[1]}T{seconds}{(match[3] or '').replace('Z', '+00:00')}")
    except ValueError:
        raise InvalidParameter(f'failed to parse value as time or duration: "{text}"') from None
    return int(moment.astimezone(UTC).timestamp()) * 10**9 + int(fraction.ljust(9, "0"))


def parse_duration_ns(text: str) -> int:
    """A length of time in Go's spelling, `1m30s`. Raises InvalidParameter with Go's text."""
    duration = _duration_ns(text)
    if duration is None:
        raise InvalidParameter(f'time: invalid duration "{text}"')
    return duration


def _duration_ns(text: str) -> int | None:
    parts = _DURATION.findall(text)
    if not parts or len(text) > 64 or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(int(float(number) * _UNIT_NS[unit]) for number, unit in parts)


def reference_matcher(patterns: Sequence[str]) -> Callable[[Reference], bool]:
    """Whether a reference fits one of the patterns, with its tag or without. Raises InvalidParameter."""
    compiled = [re.compile(glob_to_regex(pattern)) for pattern in patterns]

    def matches(reference: Reference) -> bool:
        names = (reference.familiar, reference.familiar_name)
        return any(one.fullmatch(name) for one in compiled for name in names)

    return matches


def glob_to_regex(pattern: str) -> str:
    """Go's `path.Match` pattern as a regular expression: `*` and `?` stop at slashes."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            while pattern[at : at + 1] == "*":
                at += 1
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "\\":
            if at == len(pattern):
                raise InvalidParameter("syntax error in pattern")
            out.append(re.escape(pattern[at]))
            at += 1
        elif char == "[":
            text, at = _glob_class(pattern, at)
            out.append(text)
        else:
            out.append(re.escape(char))
    return "".join(out)


def _glob_class(pattern: str, at: int) -> tuple[str, int]:
    """A `[…]` class whose bracket was read, and where it ends."""
    is_negated = pattern[at : at + 1] == "^"
    at += is_negated
    ranges: list[str] = []
    while True:
        if pattern[at : at + 1] == "]" and ranges:
            return f"[{'^/' if is_negated else ''}{''.join(ranges)}]", at + 1
        low, at = _glob_char(pattern, at)
        high = low
        if pattern[at : at + 1] == "-":
            high, at = _glob_char(pattern, at + 1)
        if low > high:
            raise InvalidParameter("syntax error in pattern")
        ranges.append(f"{re.escape(low)}-{re.escape(high)}")


def _glob_char(pattern: str, at: int) -> tuple[str, int]:
    if at >= len(pattern) or pattern[at] in "-]":
        raise InvalidParameter("syntax error in pattern")
    if pattern[at] == "\\":
        at += 1
        if at >= len(pattern):
            raise InvalidParameter("syntax error in pattern")
    return pattern[at], at + 1
