"""What differs from one API version to the next, in one place.

We speak MAXIMUM and shape answers down from it: `shape` has one row per change that clients notice. Handlers ask
`version >= SIGNAL_ON_STOP` and the like for what changes the request's meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from wherry.errors import InvalidParameter

Version = tuple[int, int]

MAXIMUM: Version = (1, 51)
MINIMUM: Version = (1, 24)

JSON_ERRORS: Version = (1, 24)
BINARY_WEBSOCKET: Version = (1, 28)
EARLY_WAIT_HEADER: Version = (1, 30)
WAIT_CONDITION: Version = (1, 30)
ONE_SHOT_STATS: Version = (1, 41)
SIGNAL_ON_STOP: Version = (1, 42)
MULTIPLEXED_TYPE: Version = (1, 42)
CONSOLE_SIZE: Version = (1, 42)
PRUNE_ANONYMOUS_VOLUMES: Version = (1, 42)
DISK_USAGE_TYPES: Version = (1, 42)
RECURSIVE_READ_ONLY: Version = (1, 44)
SEVERAL_NETWORKS: Version = (1, 44)
ENABLE_IPV4: Version = (1, 48)
IMAGE_CREATE_EVENT: Version = (1, 46)

_TEXT = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})")


def text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def parse(written: str) -> Version:
    """The version in a request's path, or a reason to refuse it in Docker's words."""
    match = _TEXT.fullmatch(written)
    if match is None:
        raise InvalidParameter(f"invalid API version {written[:32]!r}")
    return int(match[1]), int(match[2])


def check(version: Version, minimum: Version) -> None:
    """Refuse a client that is newer than we are or older than we still speak. Docker's texts, byte for byte."""
    if version > MAXIMUM:
        raise InvalidParameter(
            f"client version {text(version)} is too new. Maximum supported API version is {text(MAXIMUM)}"
        )
    if version < minimum:
        raise InvalidParameter(
            f"client version {text(version)} is too old. Minimum supported API version is {text(minimum)}, "
            "please upgrade your client to a newer version"
        )


Json = dict[str, Any]


def _drop(*path: str) -> Callable[[Json], None]:
    """A change that takes the field at `path` away."""

    def change(value: Json) -> None:
        for name in path[:-1]:
            value = value.get(name) or {}
        value.pop(path[-1], None)

    return change


def _more_aliases(container: Json) -> None:
    """What `DNSNames` says now was among the aliases once."""
    settings: Json = container.get("NetworkSettings") or {}
    config: Json = container.get("Config") or {}
    networks: dict[str, Json] = settings.get("Networks") or {}
    more: list[str] = [container.get("Id", "")[:12], config.get("Hostname", "")]
    for name, place in networks.items():
        if name not in ("bridge", "host", "none", "default"):
            aliases: list[str] = [*(place.get("Aliases") or ()), *filter(None, more)]
            place["Aliases"] = list(dict.fromkeys(aliases))


def _virtual_size(image: Json) -> None:
    image["VirtualSize"] = image.get("Size", 0)


def _uncounted(image: Json) -> None:
    image["Containers"] = -1


def _container_fields(image: Json) -> None:
    """An image's configuration was a container's once, with fields that mean nothing in an image."""
    config: Json = image.get("Config") or {}
    for name in ("AttachStderr", "AttachStdin", "AttachStdout", "OpenStdin", "StdinOnce", "Tty"):
        config.setdefault(name, False)
    for name in ("Domainname", "Hostname", "Image"):
        config.setdefault(name, "")


def _container_config(image: Json) -> None:
    """The container an image was committed from, in theory. docker-compose 1 looks here for the image's volumes."""
    image["Container"] = ""
    image["ContainerConfig"] = dict(image.get("Config") or {})


_CHANGES: dict[str, list[tuple[Version, Callable[[Json], None]]]] = {
    "container": [
        ((1, 43), _drop("HostConfig", "Annotations")),
        ((1, 45), _more_aliases),
        ((1, 48), _drop("ImageManifestDescriptor")),
    ],
    "container row": [
        ((1, 46), _drop("HostConfig", "Annotations")),
        ((1, 48), _drop("ImageManifestDescriptor")),
    ],
    "network": [((1, 48), _drop("EnableIPv4"))],
    "image": [
        ((1, 44), _virtual_size),
        ((1, 48), _drop("Descriptor")),
        ((1, 48), _drop("Manifests")),
        ((1, 50), _container_fields),
        ((1, 45), _container_config),
    ],
    "image row": [
        ((1, 44), _virtual_size),
        ((1, 48), _drop("Descriptor")),
        ((1, 48), _drop("Manifests")),
        ((1, 51), _uncounted),
    ],
}
"""By kind of answer: (first version without the change, the change). Applied to JSON objects in place."""


def needs_shaping(kind: str, version: Version) -> bool:
    """Whether a client of `version` gets something else than we would write for MAXIMUM."""
    return any(version < since for since, _ in _CHANGES.get(kind, ()))


def shape(kind: str, version: Version, value: Json) -> None:
    """Change one JSON object of `kind` into what `version` knew."""
    for since, change in _CHANGES.get(kind, ()):
        if version < since:
            change(value)
