"""HTTP towards registries: connections, redirects, proxies, certificates, authorization.

One `Client` serves the whole daemon. A request follows redirects itself, because a redirect must lose the
`Authorization` header when it leaves the origin it was made for (CVE-2020-15157), and may lead to http and
https only. Nothing here retries but the one repetition that answers a 401 challenge: fetch.py does the rest.

Cancelling a request closes its connection.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urljoin, urlsplit

import aiohttp
from yarl import URL

from wherry.errors import Internal, InvalidParameter
from wherry.registry.auth import Challenge, Credentials, Tokens, parse_challenges
from wherry.registry.failures import (
    STALL_TIMEOUT_S,
    Denied,
    NotConnected,
    Unreachable,
    failure,
    read_body,
    reason,
)
from wherry.registry.resolve import Endpoint, Endpoints, split_host

MAX_REDIRECTS = 10
CONNECT_TIMEOUT_S = 30
READ_BUFFER = 1 << 20
MAX_CHALLENGES = 256


class Client:
    """The daemon's way to all registries. `await close()` drops every connection.

    `certificates` is a directory with one directory per host:port, as Docker's /etc/docker/certs.d: `*.crt`
    are authorities, `*.cert` with `*.key` is ours to show.
    """

    def __init__(
        self, endpoints: Endpoints, *, certificates: str = "/etc/docker/certs.d", agent: str = "wherry"
    ) -> None:
        self.endpoints = endpoints
        self.tokens = Tokens(self)
        self._certificates = certificates
        self._agent = agent
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[tuple[str, bool, int], ssl.SSLContext] = {}
        self._challenges: dict[str, Challenge] = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def open(
        self,
        method: str,
        endpoint: Endpoint,
        path: str,
        *,
        scope: str,
        credentials: Credentials | None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """The answer (of a status below 400) to a request, with whatever authorization `endpoint` asks for.

        Raises NotFound, Denied, TryLater, Unreachable or Internal with the registry's own words.
        """
        url = endpoint.url + path
        if endpoint.is_mirror:
            credentials = None
        authorization = await self._authorization(endpoint, scope, credentials)
        try:
            response, is_foreign = await self._follow(
                method, url, headers or {}, authorization, endpoint.is_verified
            )
        except NotConnected as exc:
            # Docker asks for /v2/ first, and so its users know this text with that address.
            raise NotConnected(str(exc).replace(url, f"{endpoint.url}/v2/")) from exc
        try:
            # Only the endpoint's own challenge is answered; one from behind a redirect is not its to make.
            if response.status == 401 and not is_foreign:
                challenge = _pick(response.headers.getall("WWW-Authenticate", []))
                if challenge is not None:
                    response.close()
                    if authorization is not None and authorization.startswith("Bearer "):
                        self.tokens.forget(authorization.removeprefix("Bearer "))
                    self._remember(endpoint, challenge)
                    if challenge.scheme == "basic" and not credentials:
                        # Docker's text.
                        raise Denied(f'{method.title()} "{url}": no basic auth credentials')
                    again = await self._authorization(endpoint, scope, credentials)
                    response, _ = await self._follow(method, url, headers or {}, again, endpoint.is_verified)
            if response.status >= 400:
                raise await failure(response, method, url)
            yield response
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
            raise Unreachable(f'{method.title()} "{url}": {reason(exc)}') from exc
        finally:
            # What was not read to its end is not read at all: close the connection instead of draining it.
            response.close()

    async def get(self, url: str) -> aiohttp.ClientResponse:
        """The answer to a plain GET of any http or https URL, without credentials; the caller closes it."""
        _origin(url)
        response, _ = await self._follow("GET", url, {}, None, True)
        if response.status >= 400:
            response.close()
            # Docker's text.
            raise Internal(f"Got HTTP status code >= 400: {response.status} {response.reason}")
        return response

    async def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        authorization: str | None,
        is_verified: bool,
        body: bytes | None = None,
        limit: int,
    ) -> tuple[int, bytes]:
        """Status and body of one plain request. Raises Internal when the body is larger than `limit`."""
        response, _ = await self._follow(method, url, headers, authorization, is_verified, body=body)
        try:
            return response.status, await read_body(response, limit)
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
            raise Unreachable(f'{method.title()} "{url}": {reason(exc)}') from exc
        finally:
            response.close()

    async def challenge_of(self, endpoint: Endpoint) -> Challenge | None:
        """What `GET /v2/` of `endpoint` asks for; None when it is open to all."""
        url = endpoint.url + "/v2/"
        response, _ = await self._follow("GET", url, {}, None, endpoint.is_verified)
        try:
            if response.status == 401:
                challenge = _pick(response.headers.getall("WWW-Authenticate", []))
                if challenge is None:
                    raise Internal(f'Get "{url}": no usable authentication challenge')
                return challenge
            if response.status >= 400:
                raise await failure(response, "GET", url)
            return None
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
            raise Unreachable(f'Get "{url}": {reason(exc)}') from exc
        finally:
            response.close()

    async def _authorization(
        self, endpoint: Endpoint, scope: str, credentials: Credentials | None
    ) -> str | None:
        challenge = self._challenges.get(endpoint.url)
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            return credentials.basic() if credentials else None
        token = await self.tokens.get(
            challenge,
            scope or challenge.scope,
            credentials,
            registry_url=endpoint.url,
            is_verified=endpoint.is_verified,
        )
        return f"Bearer {token}"

    def _remember(self, endpoint: Endpoint, challenge: Challenge) -> None:
        if len(self._challenges) >= MAX_CHALLENGES:
            self._challenges.clear()
        self._challenges[endpoint.url] = challenge

    async def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str | None,
        is_verified: bool,
        *,
        body: bytes | None = None,
    ) -> tuple[aiohttp.ClientResponse, bool]:
        """The answer after redirects, and whether it came from another origin than `url`'s."""
        start = origin = _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            here = dict(headers)
            if authorization is not None and origin == start:
                here["Authorization"] = authorization
            response = await self._send(method, url, here, is_verified or origin[1] != start[1], body)
            if response.status not in (301, 302, 303, 307, 308) or "Location" not in response.headers:
                return response, origin != start
            response.close()
            try:
                target = urljoin(url, response.headers["Location"])
                origin = _origin(target)
            except (InvalidParameter, ValueError) as exc:
                raise Internal(f'{method.title()} "{url}": refusing to follow a redirect: {exc}') from exc
            if body is not None:
                raise Internal(f'{method.title()} "{url}": refusing to follow a redirect with a body')
            url = target
        raise Internal(f'{method.title()} "{url}": stopped after {MAX_REDIRECTS} redirects')

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str], is_verified: bool, body: bytes | None
    ) -> aiohttp.ClientResponse:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=STALL_TIMEOUT_S
                ),
                connector=aiohttp.TCPConnector(limit=64, limit_per_host=16),
                auto_decompress=False,  # a digest is that of the bytes as they are sent
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_BUFFER,
                skip_auto_headers=("Accept-Encoding",),
                headers={"User-Agent": self._agent},
            )
        parts = urlsplit(url)
        context: ssl.SSLContext | bool = True
        if parts.scheme == "https":
            context = await self._context(parts.netloc.lower(), is_verified)
        try:
            return await self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                ssl=context,
                allow_redirects=False,
                proxy=proxy_for(url),
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise NotConnected(f'{method.title()} "{url}": {reason(exc)}') from exc
        except (aiohttp.ClientError, TimeoutError, ConnectionError, ValueError) as exc:
            raise Unreachable(f'{method.title()} "{url}": {reason(exc)}') from exc

    async def _context(self, host: str, is_verified: bool) -> ssl.SSLContext:
        key = (host, is_verified, _changed_ns(os.path.join(self._certificates, host)))
        if key not in self._contexts:
            if len(self._contexts) >= MAX_CHALLENGES:
                self._contexts.clear()
            self._contexts[key] = await asyncio.to_thread(tls_context, self._certificates, host, is_verified)
        return self._contexts[key]


def tls_context(certificates: str, host: str, is_verified: bool) -> ssl.SSLContext:
    """TLS as `host` needs it. Raises InvalidParameter for a certificate file that cannot be used."""
    context = ssl.create_default_context()
    if not is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    directory = os.path.join(certificates, host)
    try:
        names = sorted(os.listdir(directory)) if "/" not in host and host not in ("", ".", "..") else []
    except OSError:
        names = []
    for name in names:
        path = os.path.join(directory, name)
        try:
            if name.endswith(".crt"):
                context.load_verify_locations(path)
            elif name.endswith(".cert"):
                context.load_cert_chain(path, path.removesuffix(".cert") + ".key")
        except (OSError, ssl.SSLError) as exc:
            raise InvalidParameter(f"cannot use certificate {path}: {exc}") from exc
    return context


def _changed_ns(path: str) -> int:
    """When a directory's entries last changed; 0 where there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except (OSError, ValueError):
        return 0


def proxy_for(url: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY ask for. Loopback is never proxied, as in Go."""
    proxies = urllib.request.getproxies_environment()
    parts = urlsplit(url)
    proxy = proxies.get(parts.scheme)
    host = parts.hostname or ""
    if not proxy or host == "localhost" or host == "::1" or host.startswith("127."):
        return None
    if _is_exempt(host, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_exempt(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY names `host`, a domain above it, or everything."""
    for entry in no_proxy.split(","):
        name = split_host(entry.strip())[0].lstrip("*.")
        if entry.strip() == "*" or (name and (host == name or host.endswith("." + name))):
            return True
    return False


def _pick(headers: list[str]) -> Challenge | None:
    challenges = [challenge for header in headers for challenge in parse_challenges(header)]
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None


def _origin(url: str) -> tuple[str, str]:
    """Scheme and host:port. Raises InvalidParameter for anything but http and https."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise InvalidParameter(f"malformed URL {url[:200]!r}") from exc
    if parts.scheme not in ("http", "https"):
        raise InvalidParameter(f"unsupported protocol scheme {parts.scheme!r}")
    if not parts.hostname or parts.username is not None:
        raise InvalidParameter(f"malformed URL {url[:200]!r}")
    return parts.scheme, f"{parts.hostname}:{port or (443 if parts.scheme == 'https' else 80)}"
