"""Pseudo-terminals by descriptor: no name under /dev/pts is ever looked up (CVE-2025-52565)."""

from __future__ import annotations

import fcntl
import os
import struct
import termios

_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_TIOCSCTTY = 0x540E


def open_peer(master: int) -> int:
    """Unlock the pty behind `master` and open its other side."""
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    return fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)


def set_size(terminal: int, height: int, width: int) -> None:
    """Rows and columns; SIGWINCH goes to the foreground process group."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def make_controlling(terminal: int) -> None:
    """Take the terminal for the session that this process leads."""
    fcntl.ioctl(terminal, _TIOCSCTTY, 0)
