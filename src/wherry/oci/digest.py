"""Digests and the names made of them: image-spec descriptor.md, "Digests", and config.md, "Layer ChainID"."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import NewType

from wherry.errors import InvalidParameter

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits."""
DiffID = NewType("DiffID", str)
"""The digest of an uncompressed layer tar."""
ChainID = NewType("ChainID", str)
"""The digest that names a stack of diffIDs."""

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


def parse_digest(text: str) -> Digest:
    """`text` as a digest. Raises InvalidParameter for any other algorithm, length or spelling."""
    if not _SHA256.fullmatch(text):
        raise InvalidParameter(f"invalid digest {text!r}: expected sha256: and 64 hex digits")
    return Digest(text)


def digest_of(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def chain_ids(diff_ids: Sequence[DiffID]) -> list[ChainID]:
    """Name each filesystem on the way to the one made by applying `diff_ids` in order, lowest first.

    image-spec config.md, "Layer ChainID": one diffID is its own chainID; after that
    chain = sha256(chain + " " + diff_id).
    """
    chains: list[ChainID] = []
    for diff_id in diff_ids:
        chains.append(chain_on(chains[-1] if chains else None, diff_id))
    return chains


def chain_on(parent: ChainID | None, diff_id: DiffID) -> ChainID:
    """The chainID of `diff_id` on top of `parent`."""
    return ChainID(diff_id) if parent is None else ChainID(digest_of(f"{parent} {diff_id}".encode()))
