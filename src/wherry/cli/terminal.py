"""The user's terminal: raw mode, and the keys that detach from a container."""

from __future__ import annotations

import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


class RawMode:
    """Puts a terminal into raw mode while the `with` block lasts; no effect on what is not a terminal."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawMode:
        try:
            saved = termios.tcgetattr(self._fd)
        except termios.error:
            return self
        raw = termios.tcgetattr(self._fd)
        raw[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        raw[1] &= ~termios.OPOST
        raw[2] = (raw[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN] = 1
        raw[6][termios.VTIME] = 0
        termios.tcsetattr(self._fd, termios.TCSANOW, raw)
        self._saved = saved
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._fd, termios.TCSANOW, self._saved)
            self._saved = None


def parse_detach_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`, `ctrl-]`, `a,b`: the bytes that are typed. Raises ValueError for an unknown key."""
    codes = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            codes += key.encode()
        elif key == "DEL":
            codes.append(127)
        elif (
            key.lower().startswith("ctrl-")
            and len(key) == 6
            and key[5].lower() in "abcdefghijklmnopqrstuvwxyz@[\\]^_"
        ):
            codes.append(ord(key[5].upper()) & 0x1F)
        else:
            raise ValueError(f"Unknown character: '{key}'")
    return bytes(codes)


class DetachKeys:
    """Looks for the detach sequence in what is typed. A beginning that comes to nothing is passed on."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self._held = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the sequence was completed."""
        sequence = self._sequence
        if not sequence or (not self._held and sequence[0] not in data):
            return data, False
        out = bytearray()
        for byte in data:
            if byte == sequence[self._held]:
                self._held += 1
                if self._held == len(sequence):
                    self._held = 0
                    return bytes(out), True
                continue
            if self._held:
                out += sequence[: self._held]
                self._held = 0
                if byte == sequence[0]:
                    self._held = 1
                    if len(sequence) == 1:
                        return bytes(out), True
                    continue
            out.append(byte)
        return bytes(out), False
