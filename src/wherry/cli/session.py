"""What every command is given: the engine, the standard streams, and how to say that something failed."""

from __future__ import annotations

import os
import sys

from wherry.client.address import DEFAULT_SOCKET, parse_address
from wherry.client.api import CannotConnect, Client, Tls
from wherry.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PROGRAM = "wherry"


class Exit(Exception):
    """End the command with this exit code, after printing the message, if any, as it is."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Session:
    """One invocation of the command."""

    def __init__(self, environ: Mapping[str, str], *, host: str = "", tls: Tls | None = None) -> None:
        self.environ = environ
        self.command = ""  # the command's full name as it was called: "container run"
        chosen = host or environ.get("WHERRY_HOST", "") or environ.get("DOCKER_HOST", "")
        self.is_default_host = not chosen
        if not tls and environ.get("DOCKER_TLS_VERIFY"):
            tls = default_tls(environ, verify=True)
        self._tls = tls
        self._host = chosen or f"unix://{DEFAULT_SOCKET}"
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The engine. The default one is started if nobody listens there; another host's never is."""
        if self._client is None:
            client = self.another_client()
            if self.is_default_host:
                from wherry.cli.autostart import ensure_daemon

                ensure_daemon(client)
            self._client = client
        return self._client

    def another_client(self) -> Client:
        """A client without a look at whether the engine is there."""
        tls = self._tls
        try:
            address = parse_address(self._host, tls=tls is not None)
        except InvalidParameter as exc:
            raise Exit(1, f"Failed to initialize: {exc}") from None
        return Client(address, version=self.environ.get("DOCKER_API_VERSION", ""), tls=tls)

    def out(self, text: str) -> None:
        sys.stdout.write(text)

    def flush(self) -> None:
        """What was printed is seen now."""
        sys.stdout.flush()

    def err(self, text: str) -> None:
        """To standard error, after what was printed before it."""
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()

    def fail(self, error: Exception | str) -> int:
        """Report one failed item of several; gives the exit code."""
        self.err(f"{describe(error) if isinstance(error, Exception) else error}\n")
        return 1


def describe(error: Exception) -> str:
    """The line a user sees for a failure."""
    from wherry.client.api import ApiError

    if isinstance(error, ApiError):
        return f"Error response from daemon: {error}"
    if isinstance(error, OSError) and not isinstance(error, CannotConnect):
        return os_error(error)
    return str(error)


def os_error(error: OSError) -> str:
    """An OSError as Go words it: open /nope: no such file or directory."""
    reason = (error.strerror or str(error)).lower()
    return f"open {error.filename}: {reason}" if error.filename is not None else reason


def default_tls(environ: Mapping[str, str], *, verify: bool) -> Tls:
    """The certificates of DOCKER_CERT_PATH, or of ~/.docker."""
    where = environ.get("DOCKER_CERT_PATH") or os.path.join(environ.get("HOME", "/"), ".docker")
    return Tls(
        ca=os.path.join(where, "ca.pem"),
        cert=os.path.join(where, "cert.pem"),
        key=os.path.join(where, "key.pem"),
        verify=verify,
    )


def is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def size_of(fd: int) -> tuple[int, int] | None:
    """(height, width) of the terminal, None where there is none."""
    try:
        size = os.get_terminal_size(fd)
    except (OSError, ValueError):
        return None
    return (size.lines, size.columns) if size.lines and size.columns else None
