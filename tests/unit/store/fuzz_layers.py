"""Mutated layer archives against the unpacker, for as long as you like: python -m tests.unit.store.fuzz_layers [SECONDS]

Each must be unpacked and given back byte for byte, or refused with an error of ours; in either case nothing may
appear outside of the layer, and nothing may take longer than a second.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import sys
import tempfile
import time

from tests.unit.store.test_tar import header, padded, record
from wherry.errors import WherryError
from wherry.oci.digest import ChainID, DiffID
from wherry.store.snapshots.overlay2 import Overlay2

GOOD = [b"a", b"a/b", b"./a/b/c", b"/abs", b"l/x", b"l", b"b", b"c/d/e", b".wh.a", b"a/.wh..wh..opq"]
NAMES = [*GOOD, b"../up", b"a/../../x", b".", b"", b".wh.", b".wh..wh.plnk/1"]
KINDS = [
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
    b"7",
    b"\0",
    b"g",
    b"x",
    b"L",
    b"K",
    b"S",
    b"V",
    b"M",
    b"D",
    b"X",
    b"\xff",
]
KEYS = [b"path", b"linkpath", b"size", b"mtime", b"uid", b"GNU.sparse.map", b"GNU.sparse.major", b"GNU.sparse.realsize",
        b"GNU.sparse.name", b"SCHILY.xattr.user.x", b"SCHILY.xattr.trusted.overlay.opaque"]  # fmt: skip


def archive(rng: random.Random) -> bytes:
    out = b""
    for _ in range(rng.randint(1, 8)):
        content = rng.randbytes(rng.choice([0, 0, 1, 511, 512, 700]))
        fields = {
            "name": rng.choice(GOOD if rng.random() < 0.95 else NAMES),
            "type": rng.choice(KINDS if rng.random() < 0.1 else [b"0", b"0", *KINDS[:7]]),
            "link": rng.choice(GOOD),
            "size": b"%o" % len(content) if rng.random() < 0.99 else rng.randbytes(12),
            "mode": b"%o" % rng.getrandbits(12),
            "magic": rng.choice([b"ustar\x0000", b"ustar  \0", b""]),
        }
        if fields["type"] in (b"x", b"g") and rng.random() < 0.8:
            content = b"".join(
                record(rng.choice(KEYS), rng.choice([b"1", b"0,5", b"y", *NAMES])) for _ in range(3)
            )
            fields["size"] = b"%o" % len(content)
        out += header(**fields) + padded(content)
    data = bytearray(out + bytes(1024))
    for _ in range(rng.choice([0, 0, 0, 0, 0, 1, 3])):
        data[rng.randrange(len(data))] = rng.getrandbits(8)
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.05 else data)


def main(seconds: float, seed: int) -> None:
    rng = random.Random(seed)
    done = unpacked = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        around = set(os.listdir("/")), {"store"}
        driver = Overlay2(os.path.join(directory, "store"))
        driver.recover()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            data = archive(rng)
            diff_id = DiffID("sha256:" + hashlib.sha256(data).hexdigest())
            began = time.process_time()
            try:
                driver.commit_layer(ChainID(diff_id), None, diff_id, io.BytesIO(data))
                out = io.BytesIO()
                driver.export_layer(ChainID(diff_id), out)
                assert out.getvalue() == data
                driver.remove_layer(ChainID(diff_id))
                unpacked += 1
            except WherryError:
                pass
            except BaseException:
                print(f"seed {seed}, archive {done}: {data.hex()}", file=sys.stderr)
                raise
            slowest = max(slowest, time.process_time() - began)
            done += 1
            if done % 200 == 0:
                assert (set(os.listdir("/")), set(os.listdir(directory))) == around, "something escaped"
                assert os.listdir(os.path.join(directory, "store", "layers")) == [], "something was left"
    assert slowest < 1, f"one took {slowest:.2f} s"
    print(
        f"{done} archives, {unpacked} unpacked and given back, the slowest took {slowest * 1000:.0f} ms; seed {seed}"
    )


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else 10,
        int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns(),
    )
