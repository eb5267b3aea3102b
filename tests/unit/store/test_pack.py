"""Tars as we write them, read by Python's tarfile and by our own reader."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.store.pack import Packer, header
from wherry.store.tar import Feed, TarReader

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes devices and other people's files")


def packed(work: Callable[[Packer], None]) -> bytes:
    ours, theirs = socket.socketpair()
    parts: list[bytes] = []

    def read() -> None:
        while part := ours.recv(1 << 16):
            parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        packer = Packer(theirs.fileno())
        work(packer)
        packer.end()
    finally:
        theirs.close()
        reader.join()
        ours.close()
    return b"".join(parts)


def tree(path: Path, as_name: bytes = b"top") -> bytes:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return packed(lambda packer: packer.contents(directory, as_name))
    finally:
        os.close(directory)


def test_members_are_sorted_and_directories_end_in_a_slash(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e").write_text("e")
    data = tree(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["top", "top/a", "top/b", "top/c", "top/d", "top/d/e"]
    assert data[:4] == b"top/"
    assert tree(tmp_path, b".")[:2] == b"./"
    assert tree(tmp_path, b"/")[:2] == b"/\0"
    assert tree(tmp_path, b"").startswith(b"a\0")


@needs_root
def test_owner_mode_and_whole_seconds(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("x")
    os.chown(file, 3_000_000, 70_000)
    os.chmod(file, 0o4751)
    os.utime(file, ns=(0, 1_700_000_000_999_999_999))
    with tarfile.open(fileobj=io.BytesIO(tree(tmp_path))) as archive:
        member = archive.getmember("top/f")
    assert (member.uid, member.gid, member.mode, member.mtime) == (3_000_000, 70_000, 0o4751, 1_700_000_000)


def test_a_second_name_becomes_a_hard_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    os.link(tmp_path / "a", tmp_path / "b")
    with tarfile.open(fileobj=io.BytesIO(tree(tmp_path))) as archive:
        assert archive.getmember("top/b").islnk()
        assert archive.getmember("top/b").linkname == "top/a"


def test_holes_are_not_sent(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for at in (0, 10 << 20, 30 << 20):
            file.seek(at)
            file.write(b"data at %d" % at)
        file.truncate(40 << 20)
    data = tree(tmp_path)
    assert len(data) < 1 << 20
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.getmember("top/sparse")
        content = archive.extractfile(member)
        assert content is not None
        found = content.read()
    assert found == (tmp_path / "sparse").read_bytes()


def test_a_socket_is_left_out(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with tarfile.open(fileobj=io.BytesIO(tree(tmp_path))) as archive:
            assert archive.getnames() == ["top"]


def test_a_file_that_shrinks_is_filled_up(tmp_path: Path) -> None:
    """Its header is out by then: the archive stays whole."""
    file = tmp_path / "f"
    file.write_bytes(b"x" * 300_000)
    found = os.stat(file)
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    class Shrinking(Packer):
        def _content(self, source: int, offset: int, length: int) -> None:
            os.truncate(file, 100)
            super()._content(source, offset, length)

    ours, theirs = socket.socketpair()
    parts: list[bytes] = []
    reader = threading.Thread(target=lambda: parts.extend(iter(lambda: ours.recv(1 << 16), b"")))
    reader.start()
    packer = Shrinking(theirs.fileno())
    packer.member(directory, b"f", b"f", found)
    packer.end()
    theirs.close()
    reader.join()
    ours.close()
    os.close(directory)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
        content = archive.extractfile("f")
        assert content is not None
        assert content.read() == b"x" * 100 + bytes(299_900)


@given(
    name=st.binary(min_size=1, max_size=300).filter(lambda b: b"\0" not in b and not b.endswith(b"/")),
    link=st.binary(max_size=300).filter(lambda b: b"\0" not in b),
    size=st.integers(0, 1 << 42),
    uid=st.integers(0, 2**32 - 2),
    mtime_s=st.integers(0, 1 << 33),
    records=st.dictionaries(
        st.sampled_from([b"SCHILY.xattr.user.a", b"SCHILY.xattr.security.capability"]),
        st.binary(max_size=2000),
    ),
)
def test_our_reader_reads_every_header_we_write(
    name: bytes, link: bytes, size: int, uid: int, mtime_s: int, records: dict[bytes, bytes]
) -> None:
    data = header(
        name, kind=b"2", link=link, uid=uid, gid=uid, mtime_s=mtime_s, records=list(records.items())
    )
    with Feed(io.BytesIO(data + bytes(1024))) as feed:
        entry = TarReader(feed, lambda _: None).next()
        assert entry is not None
        assert (entry.name, entry.link, entry.uid, entry.gid) == (name, link, uid, uid)
        assert entry.mtime_ns == mtime_s * 10**9
        assert entry.xattrs == {key.removeprefix(b"SCHILY.xattr."): value for key, value in records.items()}
    data = header(name, size=size)
    with Feed(io.BytesIO(data)) as feed:
        entry = TarReader(feed, lambda _: None).next()
        assert entry is not None and (entry.name, entry.size) == (name, size)


def test_a_name_longer_than_any_path_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="too long"):
        header(b"x" * 5000)
