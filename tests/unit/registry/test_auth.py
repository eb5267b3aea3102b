from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import Unauthorized
from wherry.registry.auth import Challenge, Credentials, Tokens, parse_challenges


def test_bearer_challenge_is_read() -> None:
    header = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'
    assert parse_challenges(header) == [
        Challenge(
            "bearer",
            realm="https://auth.docker.io/token",
            service="registry.docker.io",
            scope="repository:a/b:pull,push",
        )
    ]


def test_several_challenges_in_one_header() -> None:
    found = parse_challenges('Negotiate, Basic realm="a \\"b\\"", Bearer realm=x, service = y')
    assert [one.scheme for one in found] == ["negotiate", "basic", "bearer"]
    assert found[-2].realm == 'a "b"'
    assert found[-1].service == "y"


@given(st.text(max_size=300))
def test_any_header_can_be_read(text: str) -> None:
    parse_challenges(text)


@given(st.text(alphabet=' ",=\\abBearer', max_size=60))
def test_any_near_miss_can_be_read(text: str) -> None:
    parse_challenges("Bearer " + text)


class Answering:
    """A transport that gives one token and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None, bytes | None]] = []

    async def exchange(self, method: str, url: str, **options: object) -> tuple[int, bytes]:
        self.asked.append((method, url, options["authorization"], options["body"]))  # type: ignore[arg-type]
        return 200, b'{"access_token":"t","expires_in":600}'


async def test_identity_token_is_posted() -> None:
    transport = Answering()
    tokens = Tokens(transport)  # type: ignore[arg-type]
    token = await tokens.get(
        Challenge("bearer", realm="https://a/token", service="s"),
        "repository:x:pull",
        Credentials(identity_token="refresh"),
        registry_url="https://r",
        is_verified=True,
    )
    assert token == "t"
    ((method, url, authorization, body),) = transport.asked
    assert (method, url, authorization) == ("POST", "https://a/token", None)
    assert body is not None and b"grant_type=refresh_token" in body and b"refresh_token=refresh" in body


async def test_credentials_never_go_from_tls_to_plain_http() -> None:
    transport = Answering()
    tokens = Tokens(transport)  # type: ignore[arg-type]
    challenge = Challenge("bearer", realm="http://a/token")
    with pytest.raises(Unauthorized, match="refusing to send credentials"):
        await tokens.get(challenge, "s", Credentials("u", "p"), registry_url="https://r", is_verified=True)
    assert transport.asked == []


async def test_tokens_of_two_users_are_kept_apart() -> None:
    transport = Answering()
    tokens = Tokens(transport)  # type: ignore[arg-type]
    challenge = Challenge("bearer", realm="https://a/token")
    for user in ("a", "b", "a"):
        await tokens.get(challenge, "s", Credentials(user, "p"), registry_url="https://r", is_verified=True)
    assert len(transport.asked) == 2
