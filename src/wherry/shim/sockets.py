"""Unix sockets by directory and name, however long the path: an address holds 107 bytes, a descriptor's fits."""

from __future__ import annotations

import os
import socket
import time

LAUNCHER, SHIM = "launcher.sock", "shim.sock"

_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


def listen(directory: str, name: str, *, backlog: int = 16) -> socket.socket:
    """Listen on DIRECTORY/NAME, for root only, in place of whatever had that name."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | _FLAGS)
    temporary = f"{name}.{os.getpid()}.{time.time_ns()}"
    try:
        listener.bind(f"/proc/self/fd/{fd}/{temporary}")
        os.chmod(temporary, 0o600, dir_fd=fd)
        listener.listen(backlog)
        # Renamed when it is ready: whoever finds the name can connect.
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(fd)
    return listener


def connect(directory: str, name: str) -> socket.socket:
    """Connect to DIRECTORY/NAME. Raises OSError if nobody is there."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(5)
        sock.connect(f"/proc/self/fd/{fd}/{name}")
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock
