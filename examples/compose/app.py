"""Counts visits in redis. Nothing but the standard library, so that any image with python3 can run it."""

import http.server
import os
import socket


def ask(*words: str) -> str:
    """One redis command and its one-line answer."""
    with socket.create_connection((os.environ["REDIS"], 6379), timeout=5) as sock:
        sock.sendall(" ".join(words).encode() + b"\r\n")
        return sock.makefile().readline().strip().lstrip(":+")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answer = f"visit {ask('INCR', 'visits')}, served by {socket.gethostname()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
