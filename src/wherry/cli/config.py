"""The user's configuration, docker's own: `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`."""

from __future__ import annotations

import os

from wherry.client import jsontext
from wherry.client.answers import mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAX_CONFIG = 4 * 1024 * 1024


def load_config(environ: Mapping[str, str]) -> dict[str, Any]:
    """The file's object; empty where there is no file or it is not one. A broken file stops nobody."""
    home = environ.get("DOCKER_CONFIG") or os.path.join(environ.get("HOME", "/"), ".docker")
    try:
        with open(os.path.join(home, "config.json"), encoding="utf-8") as file:
            value = jsontext.loads(file.read(MAX_CONFIG))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def registry_auth(environ: Mapping[str, str], domain: str) -> str:
    """The X-Registry-Auth header for a registry: base64url of its credentials, or of an empty object."""
    import binascii

    config = load_config(environ)
    server = "https://index.docker.io/v1/" if domain == "docker.io" else domain
    auth: dict[str, str] = _from_helper(config, server) or _from_file(config, server, domain)
    text = jsontext.dumps(auth).encode()
    return binascii.b2a_base64(text, newline=False).decode().replace("+", "-").replace("/", "_")


def _from_file(config: dict[str, Any], server: str, domain: str) -> dict[str, str]:
    import binascii

    auths = config.get("auths")
    if not isinstance(auths, dict):
        return {}
    found: Any = None
    for name in (server, domain, f"https://{domain}", f"https://{domain}/v1/", f"https://{domain}/v2/"):
        found = found or auths.get(name)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(found, dict):
        return {}
    entry: dict[str, Any] = found  # pyright: ignore[reportUnknownVariableType]
    auth = {"serveraddress": server}
    for key in ("username", "password", "identitytoken", "registrytoken"):
        if isinstance(entry.get(key), str):
            auth[key] = entry[key]
    if isinstance(entry.get("auth"), str) and entry["auth"]:
        try:
            user, _, password = binascii.a2b_base64(entry["auth"]).decode().partition(":")
        except (ValueError, UnicodeDecodeError):
            return {}
        auth |= {"username": user, "password": password.rstrip("\0")}
    return auth


def _from_helper(config: dict[str, Any], server: str) -> dict[str, str]:
    """Ask the credential helper that the file names, if any: docker-credential-NAME get."""
    name: Any = mapping(config, "credHelpers").get(server) or config.get("credsStore")
    if not isinstance(name, str) or not name or "/" in name:
        return {}
    import subprocess

    try:
        done = subprocess.run(
            [f"docker-credential-{name}", "get"],
            input=server.encode(),
            capture_output=True,
            timeout=60,
            check=True,
        )
        answer: Any = jsontext.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return {}
    if user == "<token>":
        return {"identitytoken": secret, "serveraddress": server}
    return {"username": user, "password": secret, "serveraddress": server}
