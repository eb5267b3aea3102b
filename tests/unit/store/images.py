"""Small images to try a store with."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from typing import BinaryIO

from wherry.oci import image as oci
from wherry.oci.digest import DiffID, Digest, digest_of
from wherry.oci.image import Descriptor
from wherry.store.store import LayerSource


def layer(name: str, data: bytes = b"data") -> bytes:
    """A tar with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def diff_id(tar: bytes) -> DiffID:
    return DiffID("sha256:" + hashlib.sha256(tar).hexdigest())


class Sample:
    """An image of some layers: its bytes, and sources to commit it from."""

    def __init__(self, *tars: bytes, created: str = "2024-01-02T03:04:05Z", note: str = "") -> None:
        self.tars = tars
        self.packed = [gzip.compress(tar, mtime=0) for tar in tars]
        self.config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": created,
                "comment": note,
                "config": {"Cmd": ["sh"]},
                "rootfs": {"type": "layers", "diff_ids": [diff_id(tar) for tar in tars]},
            }
        ).encode()
        self.id: Digest = digest_of(self.config)
        self.blobs = [
            Descriptor(oci.OCI_LAYER_GZIP, digest_of(packed), len(packed)) for packed in self.packed
        ]
        self.manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": oci.OCI_MANIFEST,
                "config": {"mediaType": oci.OCI_CONFIG, "digest": self.id, "size": len(self.config)},
                "layers": [
                    {"mediaType": b.media_type, "digest": b.digest, "size": b.size} for b in self.blobs
                ],
            }
        ).encode()
        self.opened: list[int] = []

    def sources(self, *, pulled: bool = False) -> list[LayerSource]:
        return [LayerSource(self._open(n), self.blobs[n] if pulled else None) for n in range(len(self.tars))]

    def _open(self, n: int) -> Callable[[], BinaryIO]:
        def opened() -> BinaryIO:
            self.opened.append(n)
            return io.BytesIO(self.packed[n])

        return opened
