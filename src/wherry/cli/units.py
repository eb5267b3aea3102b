"""Sizes, times and spans of time, as docker reads and writes them."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def _scaled(size: float, base: float, units: Sequence[str], digits: int) -> str:
    step = 0
    while size >= base and step < len(units) - 1:
        size /= base
        step += 1
    return f"{general(size, digits)}{units[step]}"


def general(number: float, digits: int) -> str:
    """Go's %.Ng: like Python's, and without a sign of its own for exponents that do not occur here."""
    return f"{number:.{digits}g}"


def human_size(size: float, digits: int = 4) -> str:
    """Powers of a thousand: 1.234MB."""
    return _scaled(size, 1000.0, DECIMAL_UNITS, digits)


def bytes_size(size: float) -> str:
    """Powers of 1024: 23.54GiB."""
    return _scaled(size, 1024.0, BINARY_UNITS, 4)


def read_bytes(text: str) -> int:
    """A size such as 64m, 1.5g, 512KiB or 1024. Raises ValueError."""
    number = text
    if number[-1:] in ("b", "B"):
        number = number[:-1]
    if number[-1:] in ("i", "I") and number[-2:-1].lower() in tuple("kmgtp"):
        number = number[:-1]
    power = "kmgtp".find(number[-1:].lower()) + 1 if number else 0
    if power:
        number = number[:-1]
    if number[-1:] == " ":
        number = number[:-1]
    whole, dot, fraction = number.partition(".")
    if not whole.isdigit() or not number.isascii() or (dot and not fraction.isdigit()):
        raise ValueError(f"invalid size: '{text}'")
    return int(float(number) * 1024**power) if dot else int(number) * 1024**power


def read_memory_swap(text: str) -> int:
    """A size, or -1 for no limit."""
    return -1 if text == "-1" else read_bytes(text)


def read_nano_cpus(text: str) -> int:
    """A number of processors such as 1.5 or 3/2, in billionths. Raises ValueError."""
    top, slash, bottom = text.partition("/")
    try:
        if not text or not text.isascii() or "_" in text or " " in text or text == ".":
            raise ValueError
        whole, _, fraction = top.partition(".")
        if slash:
            value = int(top) * 10**9
            share = int(bottom)
            exact = value % share == 0
            value //= share
        else:
            digits = fraction.rstrip("0")
            exact = len(digits) <= 9
            sign = -1 if whole.startswith("-") else 1
            value = int(whole or "0") * 10**9 + sign * int(digits[:9].ljust(9, "0") or "0")
            if fraction and not fraction.isdigit():
                raise ValueError
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    if not exact:
        raise ValueError("value is too precise")
    return value


_DURATION_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def read_duration(text: str) -> int:
    """A span such as 1h30m, 1.5s or 300ms, in nanoseconds. Raises ValueError with Go's text."""
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    problem = ValueError(f'time: invalid duration "{text}"')
    if not body:
        raise problem
    total = 0.0
    position = 0
    while position < len(body):
        start = position
        while position < len(body) and (body[position] == "." or "0" <= body[position] <= "9"):
            position += 1
        number = body[start:position]
        start = position
        while position < len(body) and body[position] != "." and not "0" <= body[position] <= "9":
            position += 1
        unit = body[start:position]
        if not number or number.count(".") > 1 or number == ".":
            raise problem
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _DURATION_NS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(number) * _DURATION_NS[unit]
    if total >= 1 << 63:
        raise problem
    return -round(total) if text[0] == "-" else round(total)


def human_duration(seconds: float) -> str:
    """Docker's rough words: "About an hour", "3 weeks"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a Gregorian date (`datetime` costs 2 ms to import)."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def read_timestamp(text: str) -> tuple[int, int]:
    """RFC 3339 as seconds and nanoseconds; finer parts and zone (then local) may be absent. ValueError."""
    problem = ValueError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse "{text}"')
    date, _, clock = text.replace(" ", "T", 1).partition("T")
    parts = date.split("-")
    if len(parts) != 3 or [len(part) for part in parts] != [4, 2, 2] or not "".join(parts).isdigit():
        raise problem
    year, month, day = (int(part) for part in parts)
    offset: int | None = None
    if clock[-1:] in ("Z", "z"):
        clock, offset = clock[:-1], 0
    else:
        for sign in "+-":
            clock, found, zone = clock.partition(sign)
            if found:
                hours, _, minutes = zone.partition(":")
                if not (hours + minutes).isdigit():
                    raise problem
                offset = (int(hours) * 3600 + int(minutes or "0") * 60) * (1 if sign == "+" else -1)
                break
    clock, _, fraction = clock.partition(".")
    fields = clock.split(":") if clock else []
    if (
        len(fields) > 3
        or not all(field.isdigit() for field in fields)
        or (fraction and not fraction.isdigit())
    ):
        raise problem
    hour, minute, second = (*(int(field) for field in fields), 0, 0, 0)[:3]
    if not (1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 61):
        raise problem
    seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
    nanoseconds = int(fraction[:9].ljust(9, "0")) if fraction else 0
    if offset is None:
        local = time.mktime((year, month, day, hour, minute, second, 0, 0, -1))
        return int(local), nanoseconds
    return seconds - offset, nanoseconds


def since_argument(text: str, now: float) -> str:
    """What `--since` and `--until` send: a unix time, from an RFC 3339 time or from a span before now."""
    if text in ("", "0"):
        return text
    try:
        span = read_duration(text)
    except ValueError:
        pass
    else:
        return str(int(now - span / 1e9))
    try:
        seconds, nanoseconds = read_timestamp(text)
    except ValueError:
        number = text[1:] if text[0] == "-" else text
        if number.replace(".", "", 1).isdigit():
            return text
        raise ValueError(f'failed to parse value as time or duration: "{text}"') from None
    return f"{seconds}.{nanoseconds:09d}"


def format_local(seconds: float, layout: str = "%Y-%m-%d %H:%M:%S %z %Z") -> str:
    """A time in the user's zone, as Go prints it by default: 2026-11-24 22:10:01 +0000 UTC."""
    return time.strftime(layout, time.localtime(int(seconds)))


def rfc3339_local(seconds: int, nanoseconds: int | None = None) -> str:
    """A time in the user's zone, 2026-11-24T22:10:01Z or …+02:00, with nanoseconds if they are given."""
    where = time.localtime(seconds)
    zone = time.strftime("%z", where)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    fraction = "" if nanoseconds is None else f".{nanoseconds:09d}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", where) + fraction + zone
