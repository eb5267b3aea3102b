from __future__ import annotations

import io
import os
import random

import pytest

from wherry.errors import Internal
from wherry.oci.digest import digest_of
from wherry.store.record import Displaced, RecordWriter, write_tar


@pytest.fixture
def root(tmp_path: os.PathLike[str]) -> str:
    os.mkdir(os.path.join(tmp_path, "fs"))
    return os.fspath(tmp_path)


def put(root: str, path: str, data: bytes) -> None:
    full = os.path.join(root, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "wb") as file:
        file.write(data)


def again(root: str) -> bytes:
    out = io.BytesIO()
    record, tree, displaced = (os.path.join(root, name) for name in ("record", "fs", "displaced"))
    assert write_tar(record, tree, displaced, out) == digest_of(out.getvalue())
    return out.getvalue()


def test_raw_bytes_and_contents_come_back_in_order(root: str) -> None:
    big = os.urandom(2_500_000)
    put(root, "fs/a", b"content of a")
    put(root, "fs/d/big", big)
    writer = RecordWriter(os.path.join(root, "record"))
    writer.raw(b"head")
    writer.content(b"a", 0, 7)
    writer.raw(b"")
    writer.raw(b"middle" * 100_000)
    writer.content(b"a", 8, 2)
    writer.content(b"d/big", 0, len(big))
    writer.content(b"nowhere", 0, 0)
    writer.raw(b"tail")
    writer.finish()
    assert writer.files == 3
    assert again(root) == b"headcontent" + b"middle" * 100_000 + b"of" + big + b"tail"


@pytest.mark.parametrize("damage", ["cut", "garbled", "no end", "short file", "file gone", "symlink"])
def test_damage_is_an_error(root: str, damage: str) -> None:
    put(root, "fs/a", b"content of a")
    path = os.path.join(root, "record")
    writer = RecordWriter(path)
    writer.raw(random.Random(1).randbytes(300_000))
    writer.content(b"a", 0, 12)
    if damage == "no end":
        writer._write()  # type: ignore[attr-defined]
        writer._file.write(writer._compressor.flush())  # type: ignore[attr-defined]
        writer.close()
    else:
        writer.finish()
    if damage == "cut":
        os.truncate(path, os.path.getsize(path) // 2)
    elif damage == "garbled":
        with open(path, "r+b") as file:
            file.write(b"\0" * 20)
    elif damage == "short file":
        os.truncate(os.path.join(root, "fs/a"), 5)
    elif damage != "no end":
        os.unlink(os.path.join(root, "fs/a"))
    if damage == "symlink":
        os.symlink("/etc/hostname", os.path.join(root, "fs/a"))
    with pytest.raises(Internal):
        again(root)


def test_what_was_displaced_is_found_where_it_went(root: str) -> None:
    lines = [(1, 0, b"a"), (1, 1, b"a"), (4, 2, b"d"), (6, 3, b"d/x"), (9, 4, b"d")]
    os.mkdir(os.path.join(root, "displaced"))
    with open(os.path.join(root, "displaced", "index"), "wb") as index:
        index.write(b"".join(Displaced.line(*line) for line in lines))
    found = Displaced(os.path.join(root, "displaced"))
    assert found.find(0, b"a") == b"0"
    assert found.find(1, b"a") is None
    assert found.find(3, b"d/x") == b"2/x"
    assert found.find(4, b"d/x") == b"3"
    assert found.find(6, b"d/x") == b"4/x"
    assert found.find(6, b"d/y/z") == b"4/y/z"
    assert found.find(9, b"d/x") is None
    assert found.find(0, b"dd") is None
    assert Displaced(root).find(0, b"a") is None
