"""Registries over TLS: verified, by an authority of certs.d, or not at all."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from tests.fakes.registry import FakeRegistry

from wherry.errors import InvalidParameter
from wherry.registry.client import Client
from wherry.registry.failures import NotConnected
from wherry.registry.fetch import Registry, Repository
from wherry.registry.resolve import Endpoint, Endpoints


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


class TlsRegistry(FakeRegistry):
    """The fake registry behind TLS."""

    def __init__(self, certificate: tuple[str, str]) -> None:
        super().__init__()
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(*certificate)

    def site(self, runner: web.AppRunner) -> web.TCPSite:
        return web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._context)


@pytest.fixture
async def tls_registry(certificate: tuple[str, str]) -> AsyncIterator[TlsRegistry]:
    async with TlsRegistry(certificate) as registry:
        registry.add_image("x", "1", layers=[])
        yield registry


async def test_loopback_takes_any_certificate(tls_registry: TlsRegistry) -> None:
    registry = Registry(Client(Endpoints()))
    try:
        await registry.open(tls_registry.address, "x", "1", None)
    finally:
        await registry.close()


async def verified(tls_registry: TlsRegistry, certificates: str) -> None:
    client = Client(Endpoints(), certificates=certificates)
    endpoint = Endpoint(f"https://{tls_registry.address}", is_verified=True)
    try:
        await Repository(client, [endpoint], "x", None).manifest("1")
    finally:
        await client.close()


async def test_unknown_authority_is_refused(tls_registry: TlsRegistry, tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(NotConnected, match="tls: failed to verify certificate"):
        await verified(tls_registry, str(tmp_path))


async def test_authority_of_certs_d_is_accepted(
    tls_registry: TlsRegistry, certificate: tuple[str, str], tmp_path: os.PathLike[str]
) -> None:
    folder = os.path.join(tmp_path, tls_registry.address)
    os.mkdir(folder)
    os.symlink(certificate[0], os.path.join(folder, "ca.crt"))
    await verified(tls_registry, str(tmp_path))


async def test_broken_authority_is_named(tls_registry: TlsRegistry, tmp_path: os.PathLike[str]) -> None:
    folder = os.path.join(tmp_path, tls_registry.address)
    os.mkdir(folder)
    path = os.path.join(folder, "ca.crt")
    os.symlink("/dev/null", path)
    with pytest.raises(InvalidParameter, match="cannot use certificate .*ca.crt"):
        await verified(tls_registry, str(tmp_path))
