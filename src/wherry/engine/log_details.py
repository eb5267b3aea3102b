"""The details that go with every line of a container's log: labels, environment and tag, by the driver's options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from wherry.errors import InvalidParameter

_FIELD = re.compile(r"\{\{\s*\.([A-Za-z]+)\s*\}\}")


def details_for(
    options: Mapping[str, str], *, labels: Mapping[str, str], env: Sequence[str]
) -> dict[str, str]:
    """`labels` and `env` name what to take, comma-separated; `labels-regex` and `env-regex` match it."""
    variables = {name: value for name, _, value in (entry.partition("=") for entry in env)}
    return {**_chosen(options, "labels", labels), **_chosen(options, "env", variables)}


def tag_for(options: Mapping[str, str], default: str, fields: Mapping[str, str]) -> str:
    """The option `tag`, or else `default`, with Docker's fields in it (`{{.Name}}/{{.ID}}`) replaced."""
    return expand_tag(options.get("tag") or default, fields)


def _chosen(options: Mapping[str, str], key: str, values: Mapping[str, str]) -> dict[str, str]:
    names = set(options.get(key, "").split(",")) & values.keys()
    pattern = options.get(f"{key}-regex", "")
    if pattern:
        try:
            matches = re.compile(pattern).search
        except re.error as exc:
            raise InvalidParameter(f"invalid {key}-regex {pattern!r}: {exc}") from exc
        names |= {name for name in values if matches(name)}
    return {name: values[name] for name in names}


def expand_tag(tag: str, fields: Mapping[str, str]) -> str:
    """`tag` with `{{.Field}}` replaced. Raises InvalidParameter for a field there is not."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise InvalidParameter(
                f"invalid log tag {tag!r}: no field {match[1]!r}, known are {', '.join(fields)}"
            )
        return fields[match[1]]

    expanded = _FIELD.sub(value, tag)
    if "{{" in expanded:
        raise InvalidParameter(f"invalid log tag {tag!r}: only plain fields such as {{{{.Name}}}} are known")
    return expanded
