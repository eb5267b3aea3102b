"""nftables by text, through the `nft` command.

A process per call, some 5 ms, so use a thread. One text is one kernel transaction: all of it or nothing.
(docs/decisions/0006-nft-command.md says why this is not libnftables in our own process.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any, cast

import msgspec

from wherry.errors import Internal, Unsupported

_TIMEOUT_S = 30


def run(text: str) -> None:
    """Carry out nft commands. Raises Internal with nft's own words, Unsupported where there is no nft."""
    _call(["-f", "-"], text)


def listing(text: str) -> list[dict[str, Any]]:
    """The objects that a `list …` command answers with."""
    output = _call(["-j", text])
    try:
        document = msgspec.json.decode(output)
        return cast("list[dict[str, Any]]", document["nftables"])
    except (msgspec.DecodeError, KeyError, TypeError) as exc:
        raise Internal(f"nft answered with something that is not its JSON: {output[:200]!r}") from exc


def _call(arguments: list[str], text: str = "") -> bytes:
    path = shutil.which("nft") or "/usr/sbin/nft"  # a user's PATH may lack the sbin directories
    try:
        done = subprocess.run(
            [path, *arguments],
            input=text.encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as exc:
        raise Unsupported(
            "nftables cannot be used: install Debian's package nftables, or start with --iptables=false"
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise Internal(f"nft did not answer within {_TIMEOUT_S} s") from exc
    if done.returncode:
        raise Internal(f"nftables refused: {done.stderr.decode(errors='replace').strip()[:1000]}")
    return done.stdout
