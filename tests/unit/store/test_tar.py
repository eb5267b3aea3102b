from __future__ import annotations

import io
import os
import struct
import subprocess
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.store.tar import MAX_FILE_BYTES, MAX_PAX_BYTES, Entry, Feed, TarReader, parse_pax


def read_all(data: bytes) -> tuple[list[tuple[Entry, bytes]], bytes, str]:
    """Entries with their contents; what was kept; the digest."""
    kept: list[bytes] = []
    found: list[tuple[Entry, bytes]] = []
    with Feed(io.BytesIO(data)) as feed:
        reader = TarReader(feed, kept.append)
        while (entry := reader.next()) is not None:
            reader.flush()
            content = b""
            while piece := reader.content():
                content += piece
            found.append((entry, content))
        return found, b"".join(kept), feed.digest()


def names(data: bytes) -> list[bytes]:
    return [entry.name for entry, _ in read_all(data)[0]]


def header(**fields: bytes) -> bytes:
    """A header block with these raw fields and a right checksum."""
    at = {
        "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12), "mtime": (136, 12),
        "type": (156, 1), "link": (157, 100), "magic": (257, 8), "major": (329, 8), "minor": (337, 8),
        "prefix": (345, 155),
    }  # fmt: skip
    block = bytearray(512)
    defaults = {"name": b"f", "mode": b"0000644", "uid": b"0", "gid": b"0", "size": b"0", "mtime": b"0", "type": b"0",
                "magic": b"ustar\x0000"}  # fmt: skip
    for name, value in {**defaults, **fields}.items():
        start, length = at[name]
        block[start : start + length] = value.ljust(length, b"\0")[:length]
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = bytes(1024)


@pytest.fixture
def tree(tmp_path: os.PathLike[str]) -> str:
    root = os.path.join(tmp_path, "tree")
    deep = os.path.join(root, *[f"directory-number-{n:02}" for n in range(8)])
    os.makedirs(deep)
    for name, size in (("empty", 0), ("one", 1), ("block", 512), ("more", 513), ("large", 2_500_000)):
        with open(os.path.join(deep, name), "wb") as file:
            file.write(os.urandom(size))
    os.symlink("t" * 150, os.path.join(root, "long-link"))
    os.link(os.path.join(deep, "one"), os.path.join(root, "hard"))
    os.makedirs(os.path.join(root, "ümlaut"))
    return root


@pytest.mark.parametrize("kind", ["gnu", "oldgnu", "pax", "posix"])
def test_archives_of_gnu_tar_are_read_whole(tree: str, kind: str) -> None:
    data = subprocess.run(
        ["tar", f"--format={kind}", "-C", tree, "-cf", "-", "."], check=True, capture_output=True
    )
    found, kept, _ = read_all(data.stdout)
    with tarfile.open(fileobj=io.BytesIO(data.stdout)) as reference:
        members = reference.getmembers()
        assert [entry.name.rstrip(b"/") for entry, _ in found] == [os.fsencode(m.name) for m in members]
        for (entry, content), member in zip(found, members, strict=True):
            assert (entry.mode, entry.uid, entry.gid) == (member.mode, member.uid, member.gid)
            assert entry.mtime_ns // 10**9 == int(member.mtime)
            assert entry.link == os.fsencode(member.linkname)
            if member.isreg():
                file = reference.extractfile(member)
                assert file is not None
                assert content == file.read()
    assert len(kept) + sum(len(content) for _, content in found) == len(data.stdout)


@pytest.mark.parametrize("form", ["--format=oldgnu", "--format=gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_are_read_in_all_of_gnus_formats(tmp_path: os.PathLike[str], form: str) -> None:
    path = os.path.join(tmp_path, "sparse")
    with open(path, "wb") as file:
        for n in range(30):  # more runs than a header holds
            file.seek(n * 200_000)
            file.write(b"%05d" % n * 1000)
        file.truncate(9_000_000)
    options = [form] if form.startswith("--") else ["--format=posix", f"--sparse-version={form}"]
    command = ["tar", "--sparse", *options, "-C", os.fspath(tmp_path), "-cf", "-", "sparse"]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    [(entry, content)] = read_all(data)[0]
    assert entry.pieces is not None
    true_size, pieces = entry.pieces
    whole = bytearray(true_size)
    at = 0
    for offset, length in pieces:
        whole[offset : offset + length] = content[at : at + length]
        at += length
    with open(path, "rb") as file:
        assert whole == file.read()
    assert entry.name == b"sparse"
    assert len(data) < 2_000_000


def test_numbers_may_be_base_256() -> None:
    big = (1 << 33) + 5
    found, _, _ = read_all(header(uid=b"\x80\0\0\0\x01\0\0\0", mtime=b"\x80" + big.to_bytes(11, "big")) + END)
    assert found[0][0].uid == 1 << 24
    assert found[0][0].mtime_ns == big * 10**9


def test_times_before_1970_become_1970_as_in_docker() -> None:
    found, _, _ = read_all(header(mtime=b"\xff" * 12) + END)
    assert found[0][0].mtime_ns == 0


def test_pax_overrides_the_plain_header() -> None:
    records = b"".join(
        record(b"path", b"p" * 300) + record(b"size", b"3") + record(b"uid", b"4000000") + record(b"gid", b"5")
        + record(b"mtime", b"1350244992.023960108") + record(b"SCHILY.xattr.user.a=b", b"") for _ in range(1)
    )  # fmt: skip
    data = header(type=b"x", size=b"%o" % len(records)) + padded(records) + header() + padded(b"abc") + END
    [(entry, content)] = read_all(data)[0]
    assert entry.name == b"p" * 300
    assert (entry.size, content) == (3, b"abc")
    assert (entry.uid, entry.gid) == (4_000_000, 5)
    assert entry.mtime_ns == 1_350_244_992_023_960_108


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def test_global_headers_are_passed_over_as_in_docker() -> None:
    records = record(b"comment", b"x") + record(b"path", b"evil")
    data = header(type=b"g", size=b"%o" % len(records)) + padded(records) + header(name=b"good") + END
    assert names(data) == [b"good"]


def test_prefixes_belong_to_ustar_only() -> None:
    assert names(header(prefix=b"dir") + END) == [b"dir/f"]
    assert names(header(prefix=b"dir", magic=b"ustar  \0") + END) == [b"f"]


def test_links_and_directories_have_no_content_whatever_their_size_says() -> None:
    data = (
        header(type=b"5", name=b"d", size=b"1000")
        + header(type=b"1", name=b"l", size=b"512")
        + header()
        + END
    )
    assert names(data) == [b"d", b"l", b"f"]


def test_an_old_directory_ends_in_a_slash() -> None:
    [(entry, _)] = read_all(header(type=b"\0", name=b"d/") + END)[0]
    assert entry.type == b"5"


def test_the_end_may_be_missing_or_followed_by_rubbish() -> None:
    assert names(header()) == [b"f"]
    assert names(header() + bytes(512)) == [b"f"]
    data = header() + END + b"rubbish" * 500_000
    found, kept, digest = read_all(data)
    assert len(found) == 1
    assert kept == data
    assert digest == read_all(data)[2]


BROKEN: dict[str, Callable[[], bytes]] = {
    "rubbish": lambda: b"x" * 1024,
    "cut in a header": lambda: header()[:300],
    "cut in a content": lambda: header(size=b"1000") + b"x" * 600,
    "cut after a long name": lambda: header(type=b"L", size=b"200") + bytes(512),
    "wrong checksum": lambda: header()[:500] + b"y" + header()[501:] + END,
    "zeros, then something": lambda: bytes(512) + header() + END,
    "negative size": lambda: header(size=b"\xff" * 12) + END,
    "size of eight exbibytes": lambda: header(size=b"\x80\0\0\0" + (1 << 63).to_bytes(8, "big")) + END,
    "size with a minus": lambda: header(size=b"-0000001") + END,
    "size in words": lambda: header(size=b"twelve") + END,
    "size with a nine": lambda: header(size=b"0000009") + END,
    "pax size negative": lambda: pax(b"size", b"-5"),
    "pax size huge": lambda: pax(b"size", b"9" * 19),
    "pax size endless": lambda: pax(b"size", b"9" * 4000),
    "pax uid negative": lambda: pax(b"uid", b"-1"),
    "pax mtime in words": lambda: pax(b"mtime", b"now"),
    "pax path with a NUL": lambda: pax(b"path", b"a\0b"),
    "pax path too long": lambda: pax(b"path", b"a" * 5000),
    "pax header too long": lambda: header(type=b"x", size=b"%o" % (MAX_PAX_BYTES + 1)) + END,
    "global header too long": lambda: header(type=b"g", size=b"%o" % (1 << 32)) + END,
    "long name too long": lambda: header(type=b"L", size=b"%o" % (1 << 20)) + END,
    "pax record without length": lambda: raw_pax(b"path=x\n"),
    "pax record of length nought": lambda: raw_pax(b"0 path=x\n"),
    "pax record too long": lambda: raw_pax(b"99 path=x\n"),
    "pax record without end": lambda: raw_pax(b"9 path=xx"),
    "pax record without equals": lambda: raw_pax(b"7 path\n"),
    "uid of no owner": lambda: header(uid=b"\x80\0\0\0\xff\xff\xff\xff") + END,
    "sparse map backwards": lambda: pax(b"GNU.sparse.map", b"10,5,0,5", b"GNU.sparse.realsize", b"100"),
    "sparse map odd": lambda: pax(b"GNU.sparse.map", b"10,5,0", b"GNU.sparse.realsize", b"100"),
    "sparse map beyond": lambda: pax(b"GNU.sparse.map", b"0,0,90,20", b"GNU.sparse.realsize", b"100"),
    "sparse size absurd": lambda: pax(
        b"GNU.sparse.map", b"", b"GNU.sparse.realsize", b"%d" % (MAX_FILE_BYTES + 1)
    ),
}


def pax(*pairs: bytes) -> bytes:
    return raw_pax(b"".join(record(key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)))


def raw_pax(records: bytes) -> bytes:
    return header(type=b"x", size=b"%o" % len(records)) + padded(records) + header() + END


@pytest.mark.parametrize("name", BROKEN)
def test_broken_archives_are_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match="tar"):
        read_all(BROKEN[name]())


def test_what_the_source_raises_is_raised_to_the_reader() -> None:
    class Failing(io.RawIOBase):
        def readinto(self, buffer: object) -> int:
            raise OSError(5, "disk on fire")

    with Feed(Failing()) as feed, pytest.raises(OSError, match="on fire"):  # type: ignore[arg-type]
        TarReader(feed, lambda _: None).next()


def test_giving_up_early_ends_the_feeding_thread() -> None:
    with Feed(io.BytesIO(bytes(50 << 20))) as feed:
        feed.next()
        thread = feed._thread  # type: ignore[attr-defined]
    assert not thread.is_alive()


@given(st.dictionaries(st.binary(min_size=1, max_size=20).filter(lambda k: b"=" not in k and b"sparse" not in k),
                       st.binary(max_size=200), max_size=6))  # fmt: skip
def test_pax_records_are_read_back(records: dict[bytes, bytes]) -> None:
    assert parse_pax(b"".join(record(key, value) for key, value in records.items())) == records


@given(st.binary(max_size=400))
def test_any_pax_bytes_are_records_or_refused(data: bytes) -> None:
    try:
        parse_pax(data)
    except InvalidParameter:
        pass


base = header(name=b"a", size=b"5") + padded(b"hello") + raw_pax(record(b"path", b"b" * 200)) + END


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(base) - 1), st.binary(min_size=1, max_size=12)), max_size=6),
    st.booleans(),
)
def test_any_archive_is_read_or_refused(changes: list[tuple[int, bytes]], fix: bool) -> None:
    data = bytearray(base)
    for at, patch in changes:
        data[at : at + len(patch)] = patch
    if fix:  # so that more than the checksum is tried
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                data[at + 148 : at + 156] = b"        "
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    try:
        found, kept, _ = read_all(bytes(data))
    except InvalidParameter:
        return
    assert len(kept) + sum(len(content) for _, content in found) == len(data)


def test_headers_are_as_struct_says() -> None:
    assert struct.calcsize("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x") == 512
