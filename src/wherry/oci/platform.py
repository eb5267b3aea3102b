"""Platforms: `os/architecture/variant`, which of an index's manifests fits a host. containerd's `platforms` rules.

Docker prefers, among the manifests a host can run, the one nearest to it: the host's own variant, then each older
one (`arm/v7`, then v6, v5), and on amd64 and arm64 the 32-bit architectures last of all.
"""

from __future__ import annotations

from collections.abc import Sequence

from wherry.oci.image import Descriptor, Platform


def parse_platform(text: str) -> Platform:
    """`linux/arm64/v8`, `arm64`, `linux` … as a normalised Platform; what is left out is the host's.

    Raises InvalidParameter with containerd's text.
    """
    raise NotImplementedError


def host_platform() -> Platform:
    """What this machine runs natively, normalised (`x86_64` is `amd64`)."""
    raise NotImplementedError


def normalise(platform: Platform) -> Platform:
    """The one spelling of a platform: `aarch64` → `arm64`, `arm64/v8` → `arm64`, `arm` → `arm/v7`."""
    raise NotImplementedError


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether exactly `wanted` is offered, after normalising both."""
    raise NotImplementedError


def choose(manifests: Sequence[Descriptor], wanted: Platform | None) -> Descriptor:
    """The best of an index's manifests for `wanted` (None: this host).

    Raises NotFound: `no matching manifest for linux/s390x in the manifest list entries`.
    """
    raise NotImplementedError


def format_platform(platform: Platform) -> str:
    """`linux/arm64/v8`."""
    raise NotImplementedError
