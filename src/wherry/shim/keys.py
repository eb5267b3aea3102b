"""Detach keys: the sequence typed on a terminal that leaves the container running and lets the client go."""

from __future__ import annotations

DEFAULT = "ctrl-p,ctrl-q"

_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse(text: str) -> bytes:
    """The bytes that `text` (`ctrl-a`, `x`, `ctrl-p,ctrl-q`; empty: the default) stands for.

    Raises ValueError with Docker's text for anything else.
    """
    keys = bytearray()
    for key in (text or DEFAULT).split(","):
        if len(key) == 1 and ord(key) < 128:
            keys.append(ord(key))
            continue
        name = key[5:].lower()
        if key.startswith("ctrl-") and len(name) == 1 and "a" <= name <= "z":
            keys.append(ord(name) - ord("a") + 1)
        elif key.startswith("ctrl-") and name in _CONTROL:
            keys.append(_CONTROL[name])
        elif key == "DEL":
            keys.append(127)
        else:
            raise ValueError(f"Unknown character: '{key}'")  # byte for byte Docker's
    return bytes(keys)


class Detacher:
    """Watches one client's input for the keys, across reads.

    What may be the beginning of the sequence is held back until the next key decides.
    """

    __slots__ = ("_held", "_keys", "detached")

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What of `data` and of the bytes held back goes on to the container."""
        keys = self._keys
        if not keys or (not self._held and data.find(keys[0:1]) < 0):
            return data
        data = self._held + data
        at = data.find(keys)
        if at >= 0:
            self.detached = True
            self._held = b""
            return data[:at]
        held = min(len(keys) - 1, len(data))
        while held and not data.endswith(keys[:held]):
            held -= 1
        self._held = data[len(data) - held :]
        return data[: len(data) - held]
