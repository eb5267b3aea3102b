"""Times as the API writes them: RFC 3339 with nanoseconds, as Go prints them, always UTC."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from wherry.errors import InvalidParameter
from wherry.model.containers import NEVER

_DURATION = re.compile(r"(?:(\d+(?:\.\d*)?)h)?(?:(\d+(?:\.\d*)?)m)?(?:(\d+(?:\.\d*)?)s)?")


def rfc3339(ns: int) -> str:
    """Nanoseconds since 1970 as `2026-11-24T22:08:45.654587577Z`, without trailing zeros; 0 is Go's zero time."""
    if ns == 0:
        return NEVER
    seconds, fraction = divmod(ns, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def parse_timestamp(text: str, *, now_ns: int | None = None) -> int:
    """`since` and `until` in Docker's forms as nanoseconds: Unix seconds with a fraction, RFC 3339, or `10m` ago."""
    seconds, _, fraction = text.partition(".")
    if seconds.lstrip("-").isdigit() and (not fraction or fraction.isdigit()):
        return int(seconds) * 1_000_000_000 + int((fraction + "0" * 9)[:9])
    match = _DURATION.fullmatch(text)
    if match and any(match.groups()):
        hours, minutes, rest = (float(part or 0) for part in match.groups())
        return (now_ns or time.time_ns()) - int((hours * 3600 + minutes * 60 + rest) * 1e9)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise InvalidParameter(
            f"invalid timestamp {text!r}: use Unix seconds, RFC 3339 or a duration such as 10m"
        ) from exc
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1e9)


def ago(seconds: float) -> str:
    """`3 minutes`, `About an hour`: how Docker's lists say for how long."""
    for limit, text in (
        (1, "Less than a second"), (2, "1 second"), (60, f"{int(seconds)} seconds"), (120, "About a minute"),
        (3600, f"{int(seconds / 60)} minutes"),
    ):  # fmt: skip
        if seconds < limit:
            return text
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    for limit, text in (
        (48, f"{hours} hours"), (24 * 7 * 2, f"{hours // 24} days"), (24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (24 * 365 * 2, f"{hours // 24 // 30} months"),
    ):  # fmt: skip
        if hours < limit:
            return text
    return f"{int(seconds / 3600 / 24 / 365)} years"
