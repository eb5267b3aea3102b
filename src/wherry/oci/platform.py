"""Platforms: `os/architecture/variant`, and which of an index's manifests fits a host. containerd's rules.

Docker prefers, among the manifests a host can run, the one nearest to it: the host's own variant, then each older
one (`arm/v7`, then v6, v5), and on amd64 and arm64 the 32-bit architectures last of all. An entry that names no
platform fits everywhere, after all others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from wherry.errors import InvalidParameter, NotFound
from wherry.oci.image import Descriptor, Platform

_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_PART_TEXT: Final = "^[A-Za-z0-9_.-]+$"
_OPERATING_SYSTEMS: Final = frozenset(
    "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris windows zos".split()
)
_ARCHITECTURES: Final = frozenset(
    (
        "386 amd64 amd64p32 arm armbe arm64 arm64be loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le ppc"
        " ppc64 ppc64le riscv riscv64 s390 s390x sparc sparc64 wasm"
    ).split()
)
_ALIASES: Final = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
    "loongarch64": ("loong64", None),
    "mips64el": ("mips64le", None),
}
"""Other spellings of an architecture, and the variant each one means (None: as given)."""


def parse_platform(text: str) -> Platform:
    """`linux/arm64/v8`, `arm64`, `linux` … as a normalised Platform; what is left out is the host's.

    Raises InvalidParameter with containerd's texts.
    """
    parts = text.split("/")
    if "*" in text:
        raise InvalidParameter(f'"{text}": wildcards not yet supported: invalid argument')
    if len(parts) > 3:
        raise InvalidParameter(f'"{text}": cannot parse platform specifier: invalid argument')
    for part in parts:
        if not _PART.fullmatch(part):
            raise InvalidParameter(
                f'"{part}" is an invalid component of "{text}": platform specifier component must match'
                f' "{_PART_TEXT}": invalid argument'
            )
    if len(parts) > 1:
        return normalise(
            Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) > 2 else "")
        )
    host = host_platform()
    system = _system(text)
    if system in _OPERATING_SYSTEMS:
        return Platform(os=system, architecture=host.architecture, variant=host.variant)
    guess = normalise(Platform(os=host.os, architecture=text))
    if guess.architecture not in _ARCHITECTURES:
        raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    return guess


def host_platform() -> Platform:
    """What this machine runs natively, normalised (`x86_64` is `amd64`)."""
    return normalise(Platform(os="linux", architecture=os.uname().machine))


def normalise(platform: Platform) -> Platform:
    """The one spelling of a platform: `aarch64` → `arm64`, `arm64/v8` → `arm64`, `arm` → `arm/v7`."""
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    if architecture in _ALIASES:
        architecture, fixed = _ALIASES[architecture]
        variant = variant if fixed is None else variant or fixed
    if variant.isdecimal():
        variant = f"v{variant}"
    if architecture == "386" or (architecture, variant) in (("amd64", "v1"), ("arm64", "v8")):
        variant = ""
    elif architecture == "arm" and not variant:
        variant = "v7"
    return Platform(
        os=_system(platform.os),
        architecture=architecture,
        variant=variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether exactly `wanted` is offered, after normalising both."""
    return _key(normalise(wanted)) == _key(normalise(offered))


def choose(manifests: Sequence[Descriptor], wanted: Platform | None) -> Descriptor:
    """The best of an index's manifests for `wanted` (None: this host); the first of equals.

    Raises NotFound: `no matching manifest for linux/s390x in the manifest list entries`.
    """
    target = normalise(wanted) if wanted is not None else host_platform()
    offered = [
        (None if entry.platform is None else _key(normalise(entry.platform)), entry) for entry in manifests
    ]
    for candidate in (*(_key(platform) for platform in _runnable(target)), None):
        for key, entry in offered:
            if key == candidate:
                return entry
    raise NotFound(f"no matching manifest for {format_platform(target)} in the manifest list entries")


def format_platform(platform: Platform) -> str:
    """`linux/arm/v7`."""
    parts = [platform.os or "unknown", platform.architecture, platform.variant]
    return "/".join(part for part in parts if part)


def _runnable(platform: Platform) -> list[Platform]:
    """What a host of this platform runs, best first."""

    def of(architecture: str, variant: str) -> Platform:
        return Platform(os=platform.os, architecture=architecture, variant=variant)

    architecture, variant = platform.architecture, platform.variant
    found = [platform]
    level = int(variant[1:]) if re.fullmatch(r"v[0-9]", variant) else 0
    if architecture == "amd64":
        found += [of("amd64", f"v{n}" if n > 1 else "") for n in range(level - 1, 0, -1)]
        found.append(of("386", ""))
    elif architecture == "arm":
        found += [of("arm", f"v{n}") for n in range(level - 1, 4, -1)]
    elif architecture == "arm64":
        if level > 8:
            found += [of("arm64", f"v{n}" if n > 8 else "") for n in range(level - 1, 7, -1)]
        found += [of("arm", f"v{n}") for n in range(8, 4, -1)]
    return found


def _system(name: str) -> str:
    name = name.lower()
    return "darwin" if name == "macos" else name or "linux"


def _key(platform: Platform) -> tuple[str, str, str]:
    return platform.os, platform.architecture, platform.variant
