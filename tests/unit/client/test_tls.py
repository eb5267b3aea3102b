"""TLS and ssh ways to an engine."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import wherry
from tests.unit.client.servers import Server, json_answer
from wherry.cli.streams import Conversation
from wherry.client.address import parse_address
from wherry.client.api import CannotConnect, Client, Tls


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    where = str(tmp_path_factory.mktemp("tls"))
    cert, key = os.path.join(where, "cert.pem"), os.path.join(where, "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return cert, key


@pytest.fixture
def listener(certificate: tuple[str, str]) -> Iterator[tuple[socket.socket, int, list[bytes]]]:
    """A TLS server that answers one request with 101 and 200 kB, reads until the client is done, and says `end`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def serve() -> None:
            try:
                with context.wrap_socket(plain.accept()[0], server_side=True) as connection:
                    request = b""
                    while b"\r\n\r\n" not in request:
                        request += connection.recv(1000)
                    connection.sendall(
                        b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n" + b"x" * 200_000
                    )
                    while data := connection.recv(1000):
                        got.append(data)
                    connection.sendall(b"end")
            except OSError:
                pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield plain, plain.getsockname()[1], got
        thread.join(10)


def test_a_stream_over_tls_is_whole(
    certificate: tuple[str, str],
    listener: tuple[socket.socket, int, list[bytes]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    tls = Tls(ca=certificate[0], cert="", key="", verify=True)
    client = Client(parse_address(f"tcp://localhost:{listener[1]}"), tls=tls)
    sock, early = client.upgrade("/attach").hijack()
    stdin, typed = os.pipe()
    os.write(typed, b"good bye")
    os.close(typed)
    Conversation(sock, early, stdin=stdin, tty=True, keys=None).pump()
    os.close(stdin)
    assert capfd.readouterr().out == "x" * 200_000 + "end"
    assert b"".join(listener[2]) == b"good bye"


def test_a_server_that_is_not_who_it_should_be_is_refused(
    listener: tuple[socket.socket, int, list[bytes]],
) -> None:
    client = Client(
        parse_address(f"tcp://localhost:{listener[1]}"), tls=Tls(ca="", cert="", key="", verify=True)
    )
    with pytest.raises(CannotConnect):
        client.get("/x")


def test_an_engine_behind_ssh(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ssh` is a script that runs the remote command here, on a socket of ours."""
    path = os.path.join(str(tmp_path), "s")
    program = os.path.join(str(tmp_path), "ssh")
    source = os.path.dirname(os.path.dirname(wherry.__file__))
    with open(program, "w") as file:
        file.write(
            '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\n'
            '[ "$2 $3 $4 $5" = "me@there docker system dial-stdio" ] || exit 9\n'
            f"PYTHONPATH={source} WHERRY_HOST=unix://{path} exec {sys.executable} -m wherry.cli system dial-stdio\n"
        )
    os.chmod(program, stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Server(path, lambda _request: json_answer('{"A":1}')):
        client = Client(parse_address("ssh://me@there:22"))
        assert client.get("/x") == {"A": 1}
        assert client.get("/y") == {"A": 1}
        client.close()
