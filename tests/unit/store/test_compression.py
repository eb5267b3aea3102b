from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import resource
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.store.compression import compression_of, decompressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DATA = os.urandom(300_000) + bytes(3_000_000) + b"end"
COMPRESS = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("kind", COMPRESS)
def test_each_compression_is_recognised_and_undone(kind: str) -> None:
    packed = COMPRESS[kind](DATA)
    assert compression_of(packed[:6]) == kind
    source = io.BytesIO(packed)
    with decompressed(source) as stream:
        head = stream.read(10)
        assert head
        assert head + read_all(stream) == DATA
        assert stream.read(10) == b""
    assert source.closed


def read_all(stream: io.BufferedIOBase | object) -> bytes:
    return b"".join(iter(lambda: stream.read(100_000), b""))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [kind for kind in COMPRESS if kind != "plain"])
def test_members_one_after_the_other_are_one_stream(kind: str) -> None:
    pack = COMPRESS[kind]
    packed = pack(b"one") + pack(b"") + pack(b"two" * 100_000) + pack(b"three")
    assert read_all(decompressed(io.BytesIO(packed))) == b"one" + b"two" * 100_000 + b"three"


def test_gzip_may_be_padded_with_zeros() -> None:
    assert read_all(decompressed(io.BytesIO(gzip.compress(b"x") + bytes(700_000)))) == b"x"


@pytest.mark.parametrize("kind", [kind for kind in COMPRESS if kind != "plain"])
def test_broken_streams_are_refused(kind: str) -> None:
    packed = COMPRESS[kind](DATA)
    damaged = packed[:100_000] + b"\xaa" * 50 + packed[100_050:]
    if kind == "zstd":
        damaged = packed[:-1]  # it has no checksum of its own
    for broken in (packed[:-3], packed[: len(packed) // 2], damaged):
        with pytest.raises(InvalidParameter, match=f"broken {kind} stream"):
            read_all(decompressed(io.BytesIO(broken)))


def test_gzips_own_checksum_is_compared() -> None:
    packed = bytearray(gzip.compress(b"hello world"))
    packed[-6] ^= 1
    with pytest.raises(InvalidParameter):
        read_all(decompressed(io.BytesIO(bytes(packed))))


def test_rubbish_after_a_member_is_refused() -> None:
    with pytest.raises(InvalidParameter):
        read_all(decompressed(io.BytesIO(gzip.compress(b"x") + b"rubbish")))


def test_a_zstd_window_beyond_the_limit_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.compression_level: 1}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(bytes(1000)) + compressor.flush(zstd.ZstdCompressor.FLUSH_BLOCK)
    with pytest.raises(InvalidParameter, match="broken zstd stream"):
        read_all(decompressed(io.BytesIO(packed)))


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_a_bomb_is_unpacked_in_small_pieces(kind: str) -> None:
    size = 200 << 20
    if kind == "gzip":
        packer = zlib.compressobj(9, wbits=31)
        packed = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(200)), packer.flush()])
    else:
        packed = COMPRESS[kind](bytes(size))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream = decompressed(io.BytesIO(packed))
    total = 0
    while piece := stream.read(1 << 20):
        assert len(piece) <= 1 << 20
        total += len(piece)
    assert total == size
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ\x00"]),
)
def test_any_bytes_are_unpacked_or_refused(data: bytes, magic: bytes) -> None:
    try:
        read_all(decompressed(io.BytesIO(magic + data)))
    except InvalidParameter:
        pass


def test_reading_into_a_buffer_is_the_same() -> None:
    for pack in COMPRESS.values():
        stream = decompressed(io.BytesIO(pack(DATA)))
        out = b""
        buffer = bytearray(70_000)
        while count := stream.readinto(buffer):  # type: ignore[attr-defined]
            out += buffer[:count]
        assert out == DATA
