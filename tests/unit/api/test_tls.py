"""TLS connections: streams are relayed in the daemon, and each direction ends on its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fakes.engine import BULK, frame
from tests.unit.api.conftest import Raw, Server, eventually
from wherry.api.app import serve

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


def openssl(*args: str, cwd: Path) -> None:
    subprocess.run(["openssl", *args], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and a certificate of it for 127.0.0.1 that server and client share; `other-*` is of no CA we know."""
    where = tmp_path_factory.mktemp("tls")
    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *ec, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=ca", cwd=where)
    openssl("req", "-x509", *ec, "-keyout", "other-key.pem", "-out", "other.pem", "-subj", "/CN=x", cwd=where)
    openssl("req", *ec[:-2], "-keyout", "key.pem", "-out", "csr.pem", "-subj", "/CN=both", cwd=where)
    (where / "ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl(
        *("x509 -req -in csr.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2".split()),
        *("-extfile ext -out cert.pem".split()),
        cwd=where,
    )
    return where


@dataclass
class Tls:
    port: int
    certificates: Path

    def context(self, certificate: str = "cert.pem", key: str = "key.pem") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.certificates / "ca.pem"))
        context.load_cert_chain(self.certificates / certificate, self.certificates / key)
        return context

    async def connect(self, context: ssl.SSLContext | None = None) -> Raw:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context or self.context(), server_hostname="127.0.0.1"
        )
        return Raw(reader, writer)

    def plain_client(self) -> ssl.SSLSocket:
        """A blocking client: unlike asyncio's it can close one direction."""
        raw = socket.create_connection(("127.0.0.1", self.port))
        return self.context().wrap_socket(raw, server_hostname="127.0.0.1", suppress_ragged_eofs=False)


@pytest_asyncio.fixture
async def tls(server: Server, certificates: Path) -> AsyncIterator[Tls]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    servers = await serve(server.app, [listener], tls=context)
    yield Tls(listener.getsockname()[1], certificates)
    for one in servers:
        one.close()


async def test_requests(tls: Tls) -> None:
    client = await tls.connect()
    for _ in range(3):
        client.send(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
        assert (await client.answer()).body == b"OK"
    await client.close()


def half_closing_client(tls: Tls, request: bytes, data: bytes) -> bytes:
    """Send `data` behind `request`, close our direction with close_notify, and read what comes until the end."""
    client = tls.plain_client()
    client.settimeout(20)
    client.sendall(request + data)
    # SSL_shutdown sends close_notify and then waits for the peer's; with a timeout of zero only the first happens.
    client.settimeout(0)
    try:
        client.unwrap()
    except (ssl.SSLError, OSError):
        pass
    client.settimeout(20)
    out = b""
    try:
        while part := client.recv(1 << 20):
            out += part
    except ssl.SSLZeroReturnError:
        pass
    client.close()
    return out


ATTACH = (
    b"POST /containers/run-sink/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
    b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
)


async def test_half_close_ends_stdin_and_output_goes_on(server: Server, tls: Tls) -> None:
    server.engine.containers.add("run-sink")
    data = os.urandom(1000)
    out = await asyncio.to_thread(half_closing_client, tls, ATTACH, data)
    assert out.startswith(b"HTTP/1.1 101 UPGRADED\r\n")
    assert out.endswith(frame(1, hashlib.sha256(data).hexdigest().encode()))
    await eventually(lambda: not server.app.connections)


async def test_bytes_go_both_ways_and_leave_nothing(server: Server, tls: Tls) -> None:
    server.engine.containers.add("run-cat")
    before = len(os.listdir("/proc/self/fd"))
    client = await tls.connect()
    client.send(ATTACH.replace(b"run-sink", b"run-cat") + b"early")
    assert (await client.head())[0] == 101
    assert await client.reader.readexactly(13) == frame(1, b"early")
    client.send(b"later")
    assert await client.reader.readexactly(13) == frame(1, b"later")
    await client.close()
    await eventually(lambda: not server.app.connections and len(os.listdir("/proc/self/fd")) <= before)


async def test_a_hundred_megabytes_out(server: Server, tls: Tls) -> None:
    server.engine.containers.add("run-source")
    client = await tls.connect()
    client.send(ATTACH.replace(b"run-sink", b"run-source"))
    await client.head()
    size = 0
    while data := await client.reader.read(1 << 20):
        size += len(data)
    assert size == BULK + 8 * (BULK // 100_000)
    await client.close()


async def test_wait_is_answered_by_the_daemon(server: Server, tls: Tls) -> None:
    web = server.engine.containers.add("web")
    client = await tls.connect()
    client.send(b"POST /containers/web/wait HTTP/1.1\r\nHost: d\r\n\r\n")
    assert (await client.head())[0] == 200
    web.exit.set_result(3)
    assert await client.chunk() == b'{"StatusCode":3}\n'
    await client.close()


async def test_a_client_that_leaves_ends_its_stream(server: Server, tls: Tls) -> None:
    client = await tls.connect()
    client.send(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
    await client.head()
    await client.close()
    await server.engine.until_noted("events closed")


async def test_an_upload_larger_than_every_buffer(tls: Tls) -> None:
    data = os.urandom(5_000_000)
    client = await tls.connect()
    client.send(b"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    wanted = f"{len(data)} {hashlib.sha256(data).hexdigest()}"
    assert (await client.answer()).json()["stream"] == wanted
    await client.close()


async def test_strangers_and_old_versions_are_refused(server: Server, tls: Tls) -> None:
    stranger = tls.context("other.pem", "other-key.pem")
    no_certificate = ssl.create_default_context(cafile=str(tls.certificates / "ca.pem"))
    old = tls.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    for context in (stranger, no_certificate, old):
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            client = await tls.connect(context)
            client.send(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
            await client.answer()
    assert not server.app.connections


async def test_a_client_that_speaks_no_tls_is_cut_off(server: Server, tls: Tls) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", tls.port)
    writer.write(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")
    try:
        assert b"HTTP" not in await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        pass
    writer.close()
    assert not server.app.connections


@pytest.mark.skipif(shutil.which("docker") is None, reason="the docker CLI is not on PATH")
async def test_the_docker_cli(server: Server, tls: Tls) -> None:
    server.engine.containers.add("web").is_started = True
    options = ["--tlsverify"]
    for option, name in (("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")):
        options.append(f"--{option}={tls.certificates / name}")
    data = os.urandom(300_000)
    for command, wanted in (
        (["run", "-i", "x", "cat"], (0, data)),
        (["exec", "-i", "web", "sink"], (3, hashlib.sha256(data).hexdigest().encode())),
    ):
        process = await asyncio.create_subprocess_exec(
            "docker",
            *options,
            "-H",
            f"tcp://127.0.0.1:{tls.port}",
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate(data)
        assert (process.returncode, out) == wanted
