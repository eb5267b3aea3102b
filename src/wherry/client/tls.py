"""TLS to an engine on TCP. Apart, because `ssl` costs 20 ms to import."""

from __future__ import annotations

import os
import socket
import ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.client.api import Tls
    from wherry.client.http import Socket


def wrap(sock: Socket, host: str, tls: Tls) -> Socket:
    """Shake hands on a connected socket. Raises OSError (ssl.SSLError is one)."""
    context = ssl.create_default_context(cafile=tls.ca if tls.verify and tls.ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert and os.path.exists(tls.cert):
        context.load_cert_chain(tls.cert, tls.key or None)
    plain = socket.socket(fileno=os.dup(sock.fileno()))
    sock.close()
    return context.wrap_socket(plain, server_hostname=host)
