"""Image references as people type them: what they stand for, and how they are shown."""

from __future__ import annotations

LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
HEX = frozenset("0123456789abcdef")
MAX_NAME = 255
MAX_TAG = 128


class Reference:
    """A parsed reference. `tag` and `digest` are empty where they were not given."""

    __slots__ = ("digest", "domain", "path", "tag")

    def __init__(self, domain: str, path: str, tag: str, digest: str) -> None:
        self.domain = domain
        self.path = path
        self.tag = tag
        self.digest = digest

    @property
    def name(self) -> str:
        """The full repository: docker.io/library/busybox."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The shortest way to say it: busybox."""
        if self.domain != "docker.io":
            return self.name
        return self.path[8:] if self.path.startswith("library/") and self.path.count("/") == 1 else self.path

    def _suffix(self, tag: str) -> str:
        return (f":{tag}" if tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def full(self) -> str:
        """With the tag that is meant: docker.io/library/busybox:latest."""
        return self.name + self._suffix(self.tag or ("" if self.digest else "latest"))

    @property
    def familiar(self) -> str:
        """busybox:latest."""
        return self.familiar_name + self._suffix(self.tag or ("" if self.digest else "latest"))


def parse_reference(text: str) -> Reference:
    """Read a reference. Raises ValueError with docker's text."""
    if not text:
        raise ValueError("invalid reference format")
    if len(text) == 64 and set(text) <= HEX:
        raise ValueError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, at, digest = text.partition("@")
    if at and not _is_digest(digest):
        raise ValueError("invalid reference format")
    first, slash, remainder = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        domain, path = first, remainder
    else:
        domain, path = "docker.io", rest
    if domain == "index.docker.io":
        domain = "docker.io"
    path, colon, tag = path.partition(":")
    if domain == "docker.io" and path and "/" not in path:
        path = f"library/{path}"
    if path != path.lower() and _is_path(path.lower()):
        raise ValueError(f"invalid reference format: repository name ({path}) must be lowercase")
    if not _is_path(path) or (colon and not _is_tag(tag)) or not _is_domain(domain):
        raise ValueError("invalid reference format")
    if len(path) + len(domain) + 1 > MAX_NAME:
        raise ValueError(f"repository name must not be more than {MAX_NAME} characters")
    return Reference(domain, path, tag, digest)


def _is_tag(tag: str) -> bool:
    return 0 < len(tag) <= MAX_TAG and tag[0] in WORD and all(c in WORD or c in ".-" for c in tag)


def _is_digest(digest: str) -> bool:
    algorithm, _, value = digest.partition(":")
    sizes = {"sha256": 64, "sha384": 96, "sha512": 128}
    return len(value) == sizes.get(algorithm, 0) and set(value) <= HEX


def _is_path(path: str) -> bool:
    return bool(path) and all(_is_component(part) for part in path.split("/"))


def _is_component(part: str) -> bool:
    """Lower-case words joined by one dot, one or two underscores, or any number of dashes."""
    if not part or part[0] not in LOWER or part[-1] not in LOWER:
        return False
    separator = ""
    for char in part:
        if char in LOWER:
            if separator and separator not in (".", "_", "__") and set(separator) != {"-"}:
                return False
            separator = ""
        elif char in "._-":
            separator += char
        else:
            return False
    return True


def _is_domain(domain: str) -> bool:
    host, colon, port = domain.rpartition(":") if not domain.endswith("]") else (domain, "", "")
    if not colon:
        host, port = domain, "0"
    if not (port.isascii() and port.isdigit()):
        return False
    if host.startswith("[") and host.endswith("]"):
        return all(c in HEX or c in ":ABCDEF" for c in host[1:-1])
    return all(
        label
        and label[0] in WORD - {"_"}
        and label[-1] in WORD - {"_"}
        and all(c in WORD or c == "-" for c in label)
        for label in host.split(".")
    )
