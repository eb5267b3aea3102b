from __future__ import annotations

import pytest

from wherry.errors import InvalidParameter
from wherry.registry.client import proxy_for
from wherry.registry.failures import retry_after
from wherry.registry.resolve import Endpoints


async def urls(endpoints: Endpoints, domain: str) -> list[str]:
    return [endpoint.url for endpoint in await endpoints.for_domain(domain)]


async def test_hub_is_asked_after_its_mirrors() -> None:
    endpoints = Endpoints(mirrors=["https://mirror.example/", "http://127.0.0.1:5000"])
    assert await urls(endpoints, "docker.io") == [
        "https://mirror.example",
        "http://127.0.0.1:5000",
        "https://registry-1.docker.io",
    ]


async def test_mirrors_are_for_the_hub_alone() -> None:
    assert await urls(Endpoints(mirrors=["https://m"]), "192.0.2.1") == ["https://192.0.2.1"]


@pytest.mark.parametrize("domain", ["127.0.0.1:5000", "127.9.9.9", "localhost:5000", "[::1]:5000"])
async def test_loopback_is_insecure(domain: str) -> None:
    assert await urls(Endpoints(), domain) == [f"https://{domain}", f"http://{domain}"]


async def test_insecure_by_host_port_and_network() -> None:
    endpoints = Endpoints(
        insecure=["reg.invalid:5000", "http://plain.invalid", "192.0.2.0/24", "2001:db8::/32"]
    )
    assert await endpoints.is_insecure("reg.invalid:5000")
    assert not await endpoints.is_insecure("reg.invalid:5001")
    assert await endpoints.is_insecure("plain.invalid:80")
    assert await endpoints.is_insecure("192.0.2.7:443")
    assert await endpoints.is_insecure("[2001:db8::7]")
    assert not await endpoints.is_insecure("198.51.100.1")


@pytest.mark.parametrize("text", ["ftp://x", "x", "http://", "http://u:p@x", "http://x?q", "http://x:99999"])
def test_bad_mirror_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid mirror"):
        Endpoints(mirrors=[text])


@pytest.mark.parametrize("text", ["ftp://x", "", "-x", "1.2.3.4/99", "x:0", "x:70000"])
def test_bad_insecure_registry_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="insecure registry"):
        Endpoints(insecure=[text])


def test_proxies_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example,.local")
    assert proxy_for("https://registry-1.docker.io/v2/") == "http://proxy.example:3128"
    for url in (
        "https://127.0.0.1:5000/",
        "https://localhost/",
        "https://a.inside.example/",
        "https://x.local/",
    ):
        assert proxy_for(url) is None


def test_retry_after_in_both_forms() -> None:
    assert retry_after("7") == 7
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") is None
