"""What can go wrong with a registry, and what its answers of status 400 and above mean in Docker's words."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec

from wherry.errors import Internal, NotFound, Unavailable, WherryError

MAX_ERROR_BODY = 64 << 10
STALL_TIMEOUT_S = 30


class Unreachable(Unavailable):
    """No answer could be had: the connection failed, broke or stalled. Worth another try."""


class NotConnected(Unreachable):
    """Not even a connection could be made: the next endpoint may be better than a repetition."""


class Denied(Internal):
    """The registry will not show this without (other) credentials.

    No Unauthorized: that is about whoever talks to the engine. On a 401 Docker's CLI asks for a password, and hangs
    where there is nobody to type one; dockerd answers 500.
    """


class TryLater(Unavailable):
    """The registry is overloaded or failing (429, 5xx). `after_s` is its own wish, if it had one."""

    def __init__(self, message: str, after_s: float | None) -> None:
        super().__init__(message)
        self.after_s = after_s


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body. Raises Internal when it is longer than `limit`, having read no more than that."""
    if response.content_length is not None and response.content_length > limit:
        raise Internal(
            f"{response.url} answered with {response.content_length} bytes: at most {limit} are taken"
        )
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise Internal(f"{response.url} answered with more than {limit} bytes")
    return bytes(data)


class _OneError(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_OneError] = []


async def failure(response: aiohttp.ClientResponse, method: str, url: str) -> WherryError:
    """What an answer of status 400 and above means, in the words Docker has for it."""
    try:
        data = await read_body(response, MAX_ERROR_BODY)
    except (WherryError, aiohttp.ClientError, TimeoutError):
        data = b""
    text = error_text(data)
    status = response.status
    if status == 429 or status >= 500:
        fallback = "toomanyrequests" if status == 429 else f"{status} {response.reason or ''}".strip()
        message = text or f'{method.title()} "{url}": received unexpected HTTP status: {fallback}'
        return TryLater(message, retry_after(response.headers.get("Retry-After", "")))
    if status in (401, 403):
        return Denied(text or f'{method.title()} "{url}": {"unauthorized" if status == 401 else "denied"}')
    if status == 404:
        return NotFound(text or "not found")
    return Internal(
        text or f'{method.title()} "{url}": received unexpected HTTP status: {status} {response.reason}'
    )


def error_text(body: bytes) -> str:
    """distribution-spec "Error Codes" in Docker's form, `manifest unknown: manifest unknown`, or ""."""
    try:
        errors = msgspec.json.decode(body, type=_Errors).errors
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    texts: list[str] = []
    for error in errors[:5]:
        code = error.code.lower().replace("_", " ")
        texts.append(f"{code}: {error.message}" if error.message else code)
    return "".join(c if c.isprintable() else " " for c in "; ".join(texts))[:1024]


def retry_after(header: str) -> float | None:
    """Seconds to wait, from either form of Retry-After; None when there is none to be had."""
    header = header.strip()
    if header.isdigit():
        return float(header[:9])
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def reason(exc: BaseException) -> str:
    """Why a connection failed, short, in Go's words where Docker's users know them."""
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {exc.certificate_error}"
    if isinstance(exc, aiohttp.ClientConnectorSSLError):
        return f"tls: {exc}"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {exc.host}: {(exc.os_error.strerror or 'no such host').lower()}"
    if isinstance(exc, aiohttp.ClientConnectorError):
        number = exc.os_error.errno
        why = os.strerror(number).lower() if number else str(exc.os_error)
        return f"dial tcp {exc.host}:{exc.port}: connect: {why}"
    if isinstance(exc, TimeoutError):
        return f"no data for {STALL_TIMEOUT_S} s"
    if isinstance(exc, aiohttp.ClientPayloadError):
        return "unexpected EOF"
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "EOF"
    return str(exc) or type(exc).__name__
