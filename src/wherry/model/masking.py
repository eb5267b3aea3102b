"""What of a request or a setting may be shown in a log: everything but its secrets."""

from __future__ import annotations

import re
from typing import cast

MASK = "*****"
"""What stands in a secret's place. Docker's."""

_SECRET_KEYS = frozenset(("auth", "authorization", "buildargs", "data", "signingcakey", "unlockkey"))
_SECRET_WORDS = ("password", "secret", "token")
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_BUILD_ARGUMENTS = re.compile(r"(?<=[?&]buildargs=)[^&]*")


def masked(value: object) -> object:
    """`value` (of JSON) with secrets, and the values of environment variables, masked."""
    if isinstance(value, dict):
        return {key: _masked_field(key, item) for key, item in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [masked(item) for item in cast("list[object]", value)]
    return masked_url(value) if isinstance(value, str) else value


def _masked_field(key: str, value: object) -> object:
    name = key.lower()
    if name == "env" and isinstance(value, list):
        return [_masked_variable(item) for item in cast("list[object]", value)]
    if value and (name in _SECRET_KEYS or any(word in name for word in _SECRET_WORDS)):
        return MASK
    return masked(value)


def _masked_variable(item: object) -> object:
    name, equals, _ = item.partition("=") if isinstance(item, str) else ("", "", "")
    return f"{name}={MASK}" if equals else item


def masked_url(text: str) -> str:
    """`text`, an URL or a request's target, without user, password and build arguments."""
    return _BUILD_ARGUMENTS.sub(MASK, _USER_INFO.sub(MASK, text))
