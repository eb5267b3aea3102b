"""References: the names people type for images. distribution's grammar (reference.go), Docker's short forms.

    reference := name [":" tag] ["@" digest]
    name      := [domain "/"] path-component ("/" path-component)*

Three spellings of one thing: *canonical* (`docker.io/library/busybox:latest`), which the store keys by;
*familiar* (`busybox:latest`), which people read; and what was typed. Error texts are the reference
implementation's, byte for byte: clients match on them.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from wherry.errors import InvalidParameter
from wherry.oci.digest import Digest

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
_LEGACY_DOMAIN: Final = "index.docker.io"
_OFFICIAL: Final = "library/"
_MAX_NAME: Final = 255
_MAX_TEXT: Final = 4096

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_NAME = rf"(?:({_DOMAIN})/)?({_PATH})"
_REFERENCE = re.compile(rf"{_NAME}(?::({_TAG}))?(?:@({_DIGEST}))?", re.ASCII)
_TAG_ALONE = re.compile(_TAG, re.ASCII)
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_IDENTIFIER = re.compile(r"[0-9a-f]{64}", re.ASCII)


class Reference(msgspec.Struct, frozen=True):
    """A parsed reference. `domain` and `path` are full: `docker.io`, `library/busybox`."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def repository(self) -> str:
        """`docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """`busybox`, `user/x`, `localhost:5000/x`: the repository without what everybody leaves out."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        rest = self.path.removeprefix(_OFFICIAL)
        if "/" not in rest:
            return rest
        # `docker.io/a.b/c` must not become `a.b/c`, which is on the host a.b.
        return self.repository if _looks_like_domain(self.path.partition("/")[0]) else self.path

    @property
    def canonical(self) -> str:
        """The full spelling. No tag is added."""
        return self.repository + self._suffix

    @property
    def familiar(self) -> str:
        """The short spelling. No tag is added."""
        return self.familiar_name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag is not None else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """Itself, or with the tag `latest` where there is neither tag nor digest."""
        if self.tag is None and self.digest is None:
            return Reference(self.domain, self.path, DEFAULT_TAG)
        return self

    def with_tag(self, tag: str) -> Reference:
        """The same repository under `tag`. Raises InvalidParameter (`invalid tag format`)."""
        if not _TAG_ALONE.fullmatch(tag):
            raise InvalidParameter("invalid tag format")  # the reference implementation's text
        return Reference(self.domain, self.path, tag)

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository pinned to `digest`; the tag goes."""
        return Reference(self.domain, self.path, None, digest)

    def __str__(self) -> str:
        return self.canonical


def parse_reference(text: str) -> Reference:
    """`text` in any spelling as a Reference. A missing tag stays missing: see `with_default_tag`.

    Raises InvalidParameter with Docker's texts. A bare 64-digit hex string is refused: it is an image's ID.
    """
    if _IDENTIFIER.fullmatch(text):
        raise InvalidParameter(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )
    if len(text) > _MAX_TEXT:
        raise InvalidParameter("invalid reference format")
    domain, remainder = _split_domain(text)
    name = remainder.partition(":")[0]
    if name.lower() != name:
        raise InvalidParameter(f"invalid reference format: repository name ({name}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{remainder}")
    if match is None or match[1] is None:
        raise InvalidParameter("invalid reference format")
    domain, path, tag, digest = match.groups()
    if len(path) > _MAX_NAME:
        raise InvalidParameter(f"repository name must not be more than {_MAX_NAME} characters")
    if digest is not None and not _SHA256.fullmatch(digest):
        raise InvalidParameter(_digest_complaint(digest))
    return Reference(domain, path, tag, Digest(digest) if digest else None)


def is_image_id(text: str) -> bool:
    """Whether `text` is a full image ID, with or without `sha256:`."""
    return _IDENTIFIER.fullmatch(text.removeprefix("sha256:")) is not None


def _looks_like_domain(first: str) -> bool:
    return "." in first or ":" in first or first == "localhost" or first.lower() != first


def _split_domain(text: str) -> tuple[str, str]:
    """Docker's rule: what comes before the first slash is a domain if it looks like one."""
    first, slash, rest = text.partition("/")
    if slash and _looks_like_domain(first):
        domain, remainder = first, rest
    else:
        domain, remainder = DEFAULT_DOMAIN, text
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in remainder:
        remainder = _OFFICIAL + remainder
    return domain, remainder


def _digest_complaint(digest: str) -> str:
    algorithm, _, encoded = digest.partition(":")
    if algorithm not in ("sha256", "sha384", "sha512"):
        return "unsupported digest algorithm"
    if algorithm == "sha256" and len(encoded) != 64:
        return "invalid checksum digest length"
    if algorithm != "sha256":
        return f"unsupported digest algorithm {algorithm}: only sha256 is stored"
    return "invalid checksum digest format"
