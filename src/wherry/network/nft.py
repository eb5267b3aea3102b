"""nftables by text: in-process through libnftables, or by the `nft` command where the library is missing.

Calls block for some ms: use them in a thread. One command text is one kernel transaction: all of it or
nothing.
"""

from __future__ import annotations

import ctypes
import subprocess
import threading
from typing import Any, Protocol, cast

import msgspec

from wherry.errors import Internal, Unsupported

_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON
_COMMAND_TIMEOUT_S = 30


class Nft(Protocol):
    """One way to the kernel's nftables."""

    def run(self, text: str) -> None:
        """Carry out nft commands. Raises Internal with nft's own words."""
        ...

    def listing(self, text: str) -> list[dict[str, Any]]:
        """The objects that a `list …` command answers with."""
        ...


def open_nft() -> Nft:
    try:
        return Library()
    except OSError as exc:
        try:
            return Command()
        except OSError:
            raise Unsupported(
                f"nftables cannot be used ({exc}): install Debian's package nftables, "
                "or start with --iptables=false"
            ) from exc


class Library:
    """libnftables in this process: a rule set of ours is applied in about 1 ms."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libnftables.so.1")
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(library, name).argtypes = [ctypes.c_void_p]
            getattr(library, name).restype = ctypes.c_char_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        context = library.nft_ctx_new(0)
        if not context:
            raise OSError("libnftables: no context")
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        self._library = library
        self._context = context
        self._lock = threading.Lock()  # a context serves one caller at a time

    def run(self, text: str) -> None:
        self._call(text, 0)

    def listing(self, text: str) -> list[dict[str, Any]]:
        return _objects(self._call(text, _OUTPUT_JSON))

    def _call(self, text: str, flags: int) -> bytes:
        with self._lock:
            self._library.nft_ctx_output_set_flags(self._context, flags)
            failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            output = self._library.nft_ctx_get_output_buffer(self._context) or b""
            errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise Internal(f"nftables refused: {errors.decode(errors='replace').strip()}")
        return output


class Command:
    """The `nft` command, a process per call."""

    def __init__(self) -> None:
        self._call(["list tables"])

    def run(self, text: str) -> None:
        self._call(["-f", "-"], text)

    def listing(self, text: str) -> list[dict[str, Any]]:
        return _objects(self._call(["-j", text]))

    def _call(self, arguments: list[str], text: str = "") -> bytes:
        done = subprocess.run(
            ["nft", *arguments],
            input=text.encode(),
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise Internal(f"nftables refused: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout


def _objects(output: bytes) -> list[dict[str, Any]]:
    try:
        document = msgspec.json.decode(output)
        return cast("list[dict[str, Any]]", document["nftables"])
    except (msgspec.DecodeError, KeyError, TypeError) as exc:
        raise Internal(f"nftables answered with something that is not its JSON: {output[:200]!r}") from exc
