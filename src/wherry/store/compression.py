"""Decompression by magic bytes, as bounded streams: whatever size the input unpacks to, memory stays small.

gzip by isal (2.5 times zlib's speed; several members in one file are fine), zstd with a window of at most 128 MiB
(RFC 8878 asks decoders for 8 MiB; `zstd --ultra --long=27` is what people use), bzip2, xz with a memory limit.
"""

from __future__ import annotations

import bz2
import io
import lzma
import sys
import zlib
from typing import BinaryIO, Final, Protocol, cast

from isal import isal_zlib

from wherry.errors import InvalidParameter

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK: Final = 256 * 1024
_ZSTD_WINDOW_LOG: Final = 27
_XZ_MEMORY: Final = 128 << 20

GZIP: Final = "gzip"
ZSTD: Final = "zstd"
BZIP2: Final = "bzip2"
XZ: Final = "xz"
PLAIN: Final = "plain"
_MAGIC: Final = (
    (b"\x1f\x8b\x08", GZIP),
    (b"\x28\xb5\x2f\xfd", ZSTD),
    (b"BZh", BZIP2),
    (b"\xfd7zXZ\x00", XZ),
)
_ZSTD_SKIPPABLE: Final = tuple(bytes([n, 0x2A, 0x4D, 0x18]) for n in range(0x50, 0x60))
_FAULTS: Final[tuple[type[Exception], ...]] = (
    zlib.error,
    cast("type[Exception]", isal_zlib.error),
    zstd.ZstdError,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
)


def compression_of(head: bytes) -> str:
    """Which compression begins with these bytes (six are enough)."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] in _ZSTD_SKIPPABLE:  # eStargz and zstd:chunked begin or end with such a frame
        return ZSTD
    return PLAIN


def decompressed(source: BinaryIO) -> BinaryIO:
    """`source`'s bytes, unpacked if its first bytes say it is compressed. Closing it closes `source`.

    Reads may be short, as any raw stream's, and raise InvalidParameter for a broken or truncated one.
    """
    head = b""
    while len(head) < 6 and (more := source.read(6 - len(head))):
        head += more
    kind = compression_of(head)
    if kind == PLAIN:
        return cast("BinaryIO", _Pushback(source, head))
    return cast("BinaryIO", _Decompressed(source, head, kind))


class _Decoder(Protocol):
    """What bz2, lzma, zstd and isal's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """isal's decompress object in the shape of the others."""

    def __init__(self) -> None:
        self._object = isal_zlib.decompressobj(wbits=31)  # pyright: ignore[reportUnknownMemberType]  its stubs

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        pending = self._object.unconsumed_tail + data
        return self._object.decompress(pending, max_length)  # pyright: ignore[reportUnknownMemberType]


def _decoder(kind: str) -> _Decoder:
    if kind == GZIP:
        return _Gunzip()
    if kind == ZSTD:
        parameter = zstd.DecompressionParameter.window_log_max
        return zstd.ZstdDecompressor(options={parameter: _ZSTD_WINDOW_LOG})
    if kind == BZIP2:
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(memlimit=_XZ_MEMORY)


class _Pushback(io.RawIOBase):
    """A stream whose first bytes were looked at."""

    def __init__(self, source: BinaryIO, head: bytes) -> None:
        self._source, self._head = source, head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._head:
            piece, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        else:
            into = getattr(self._source, "readinto", None)
            if into is not None:
                return into(buffer) or 0
            piece = self._source.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._source.close()
        super().close()


class _Decompressed(io.RawIOBase):
    """Member after member (frame after frame) until the input ends; each read unpacks at most what was asked for."""

    def __init__(self, source: BinaryIO, head: bytes, kind: str) -> None:
        self._source, self._pending, self._kind = source, head, kind
        self._decoder: _Decoder | None = _decoder(kind)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        try:
            return self._some(size)
        except _FAULTS as exc:
            raise InvalidParameter(f"broken {self._kind} stream: {exc}") from exc

    def _some(self, size: int) -> bytes:
        while self._decoder is not None and size:
            if not self._pending and self._decoder.needs_input:
                self._pending = self._source.read(_CHUNK)
                if not self._pending:
                    raise EOFError("it ends too soon")
            piece = self._decoder.decompress(self._pending, size)
            self._pending = b""
            if self._decoder.eof:
                self._next_member()
            if piece:
                return piece
        return b""

    def _next_member(self) -> None:
        """Begin the next member, or end. Zero bytes after a member are padding (gzip, RFC 1952 and GNU's habit)."""
        assert self._decoder is not None
        self._pending = self._decoder.unused_data
        while True:
            if self._kind == GZIP:
                self._pending = self._pending.lstrip(b"\0")
            if self._pending:
                break
            self._pending = self._source.read(_CHUNK)
            if not self._pending:
                self._decoder = None
                return
        self._decoder = _decoder(self._kind)

    def close(self) -> None:
        self._source.close()
        super().close()
