"""Tell systemd how we are: sd_notify(3), the datagram alone."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Send `state` (`READY=1`) where $NOTIFY_SOCKET says; do nothing where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            pass
