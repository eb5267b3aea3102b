"""Errors as HTTP answers: the only place that knows a status code for each.

The body is always `{"message": …}`, never a traceback. What nobody expected is logged with its traceback and
answered 500 with the error's class alone.
"""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from wherry import errors
from wherry.model import wire

log = logging.getLogger(__name__)

_STATUS: dict[type[errors.WherryError], int] = {
    errors.InvalidParameter: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.Unsupported: 501,
    errors.Unavailable: 503,
    errors.Internal: 500,
}


class TooLarge(errors.InvalidParameter):
    """A body is larger than any honest one (413)."""


_STATUS[TooLarge] = 413


def status_for(error: BaseException) -> int:
    """The HTTP status that `error` is answered with."""
    for kind in type(error).__mro__:
        status = _STATUS.get(kind)
        if status is not None:
            return status
    if isinstance(error, (RequestPayloadError, HttpProcessingError)):
        return 400
    return 500


def message_for(error: BaseException) -> str:
    """What a user may see of `error`."""
    if isinstance(error, errors.WherryError):
        return str(error)
    if isinstance(error, (RequestPayloadError, HttpProcessingError)):
        return "the request's body ended early or is malformed"
    if isinstance(error, OSError) and error.strerror:
        # "no space left on device" is worth more to the user than a class name.
        return f"{error.strerror.lower()}: {error.filename}" if error.filename else error.strerror.lower()
    return f"internal error ({type(error).__name__}): the daemon's log has the details"


def log_failure(error: BaseException, method: str, path: str) -> None:
    """Leave a line in the log where the fault is ours, with a traceback if `error` is none that wherry raises on purpose."""
    if status_for(error) >= 500 and status_for(error) != 501:
        is_expected = isinstance(error, errors.WherryError)
        log.error(  # Docker's text
            "Handler for %s %s returned error: %s",
            method,
            path,
            message_for(error),
            exc_info=None if is_expected else error,
        )


def answer(error: BaseException, *, plain_text: bool = False) -> web.Response:
    """The whole answer for a request that failed with `error` before anything was written."""
    status = status_for(error)
    if status == 304:
        return web.Response(status=304)  # RFC 9110 §15.4.5: no body, and Docker's has none
    return answer_text(status, message_for(error), plain_text=plain_text)


def answer_text(status: int, message: str, *, plain_text: bool = False) -> web.Response:
    """`plain_text` is for clients of API versions below 1.24, which expect no JSON (Docker does the same)."""
    if plain_text:
        return web.Response(status=status, text=message + "\n")
    return web.Response(status=status, body=body(message), headers={"Content-Type": "application/json"})


def body(message: str) -> bytes:
    """`{"message": …}`; what cannot be written as UTF-8 (a name from a hostile path) is replaced, not raised."""
    clean = message.encode("utf-8", "replace").decode("utf-8")
    return wire.encode({"message": clean}) + b"\n"
