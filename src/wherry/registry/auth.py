"""Showing a registry who is asking: challenges, tokens, credentials.

A registry answers 401 with a challenge (RFC 9110 §11.6.1). `Basic` takes the credentials themselves;
`Bearer` names a token server ("token authentication" of Docker's registry), which takes the credentials and
gives a token for one *scope*, such as `repository:library/busybox:pull`.

Credentials go to the registry they were given for, and to the token server which that registry names in a
challenge of its own; never to where a redirect leads, and never over plain HTTP when the registry itself
speaks TLS.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import urlencode, urlsplit

import msgspec

from wherry.errors import Internal, Unauthorized

MAX_TOKENS = 256
MAX_TOKEN_ANSWER = 1 << 20
DEFAULT_TOKEN_LIFE_S = 60
CLIENT_ID = "wherry"


class Credentials(msgspec.Struct, frozen=True):
    """A user name with a password; or in their place an identity token (OAuth2 refresh token), with which bearer
    tokens are fetched; or a registry token, which is the bearer token itself."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def basic(self) -> str:
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


class Challenge(msgspec.Struct, frozen=True):
    """One way in that a registry offers. `scheme` is lower case."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""
    error: str = ""


class TokenAnswer(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""
    expires_in: int | None = None


class Transport(Protocol):
    """What this module needs of HTTP: one exchange, no retries by credentials."""

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        authorization: str | None,
        is_verified: bool,
        body: bytes | None,
        limit: int,
    ) -> tuple[int, bytes]:
        """Status and body (cut at `limit`) of one request."""
        ...


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME = re.compile(rf"[\s,]*({_TOKEN})(?:\s+|(?=,)|$)")
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*(?:,|$)')
_PARAMETER_START = re.compile(rf"\s*{_TOKEN}\s*=")


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of one `WWW-Authenticate` header. What cannot be read is left out."""
    found: list[Challenge] = []
    at = 0
    header = header[:8192]
    while at < len(header):
        scheme = _SCHEME.match(header, at)
        if scheme is None:
            break
        at = scheme.end()
        parameters: dict[str, str] = {}
        while _PARAMETER_START.match(header, at):
            parameter = _PARAMETER.match(header, at)
            if parameter is None:
                return found
            quoted = parameter[2]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else parameter[3]
            parameters.setdefault(parameter[1].lower(), value)
            at = parameter.end()
        known = {key: parameters[key] for key in ("realm", "service", "scope", "error") if key in parameters}
        found.append(Challenge(scheme[1].lower(), **known))
    return found


class Tokens:
    """Fetches bearer tokens and keeps them, per token server, scope and credentials, until they expire."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._known: dict[tuple[str, str, str, Credentials | None], tuple[str, float]] = {}

    async def get(
        self,
        challenge: Challenge,
        scope: str,
        credentials: Credentials | None,
        *,
        registry_url: str,
        is_verified: bool,
    ) -> str:
        """A token for `scope`. Raises Unauthorized when the token server refuses."""
        if credentials and credentials.registry_token:
            return credentials.registry_token
        key = (challenge.realm, challenge.service, scope, credentials)
        token, expires = self._known.get(key, ("", 0.0))
        if time.monotonic() < expires:
            return token
        answer = await self._fetch(
            challenge, scope, credentials, registry_url=registry_url, is_verified=is_verified
        )
        token = answer.token or answer.access_token
        if not token or not token.isascii() or not token.isprintable():
            raise Unauthorized("authorization server did not include a token in the response")
        life = answer.expires_in if answer.expires_in and answer.expires_in > 0 else DEFAULT_TOKEN_LIFE_S
        while len(self._known) >= MAX_TOKENS:
            self._known.pop(next(iter(self._known)))
        self._known[key] = (token, time.monotonic() + min(life, 3600) * 0.9)
        return token

    def forget(self, token: str) -> None:
        """Ask anew next time: the registry refused this one."""
        for key in [key for key, (known, _) in self._known.items() if known == token]:
            del self._known[key]

    async def _fetch(
        self,
        challenge: Challenge,
        scope: str,
        credentials: Credentials | None,
        *,
        registry_url: str,
        is_verified: bool,
    ) -> TokenAnswer:
        realm = challenge.realm
        try:
            parts = urlsplit(realm)
        except ValueError:
            raise Unauthorized(f"invalid token auth challenge realm {realm[:200]!r}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise Unauthorized(f"invalid token auth challenge realm {realm[:200]!r}")
        if credentials and parts.scheme == "http" and registry_url.startswith("https:"):
            raise Unauthorized(f"refusing to send credentials over plain HTTP to token server {realm!r}")
        headers = {"Accept": "application/json"}
        authorization: str | None = None
        body: bytes | None = None
        method = "GET"
        url = realm
        if credentials and credentials.identity_token:
            method = "POST"
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode(
                {
                    "grant_type": "refresh_token",
                    "refresh_token": credentials.identity_token,
                    "service": challenge.service,
                    "client_id": CLIENT_ID,
                    "scope": scope,
                }
            ).encode()
        else:
            query = [("service", challenge.service)] if challenge.service else []
            query += [("scope", one) for one in scope.split(" ") if one]
            if credentials:
                query.append(("account", credentials.username))
                authorization = credentials.basic()
            url += ("&" if parts.query else "?") + urlencode(query)
        status, data = await self._transport.exchange(
            method,
            url,
            headers=headers,
            authorization=authorization,
            is_verified=is_verified or urlsplit(registry_url).hostname != parts.hostname,
            body=body,
            limit=MAX_TOKEN_ANSWER,
        )
        if status in (401, 403):
            # Docker's text; `docker login` shows it after "unauthorized: ".
            raise Unauthorized(
                "unauthorized: incorrect username or password" if credentials else "unauthorized"
            )
        if status != 200:
            raise Internal(f"token server {parts.scheme}://{parts.netloc} answered {status}")
        try:
            return msgspec.json.decode(data, type=TokenAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise Internal(f"unable to decode token response: {exc}") from exc
