"""A container's files on the wire."""

from __future__ import annotations

import msgspec

from wherry.model.wire import Wire


class PathStat(msgspec.Struct, rename="camel"):
    """X-Docker-Container-Path-Stat, as base64 of JSON. `mode` is Go's os.FileMode."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str


class Change(Wire):
    """One line of `docker diff`: kind 0 is changed, 1 added, 2 deleted."""

    path: str
    kind: int
