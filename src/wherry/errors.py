"""What can go wrong, in the Docker Engine API's own terms.

Every layer raises these; only `api/errors.py` knows the HTTP status each one becomes, and only the command
line knows the exit code. Messages are lower case, without a full stop, and hold the value that was wrong.
Texts that Docker's users match on are kept byte for byte, with a comment beside them.
"""

from __future__ import annotations


class WherryError(Exception):
    """The root of everything that wherry raises on purpose. `str(error)` is fit to show to a user."""


class InvalidParameter(WherryError):
    """The request itself is wrong: a malformed name, value, body or file (400)."""


class Unauthorized(WherryError):
    """Credentials are missing or were refused (401)."""


class Forbidden(WherryError):
    """The request is understood and will not be carried out (403)."""


class NotFound(WherryError):
    """The thing named does not exist (404)."""


class Conflict(WherryError):
    """The thing named is in a state that does not allow this (409)."""


class NotModified(WherryError):
    """The thing named is already as asked for (304)."""


class Unsupported(WherryError):
    """This host, or this version of wherry, cannot do what was asked (501)."""


class Unavailable(WherryError):
    """Something that is needed does not answer just now (503)."""


class Internal(WherryError):
    """Something failed through no fault of the caller (500)."""
