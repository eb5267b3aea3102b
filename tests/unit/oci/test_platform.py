from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import InvalidParameter, NotFound
from wherry.oci.digest import digest_of
from wherry.oci.image import OCI_MANIFEST, Descriptor, Platform
from wherry.oci.platform import choose, format_platform, host_platform, matches, normalise, parse_platform


def entry(text: str | None) -> Descriptor:
    platform = None
    if text is not None:
        system, architecture, *variant = text.split("/")
        platform = Platform(os=system, architecture=architecture, variant=variant[0] if variant else "")
    return Descriptor(OCI_MANIFEST, digest_of(str(text).encode()), 1, platform=platform)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/X86-64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("windows/amd64", "windows/amd64"),
        ("linux/s390x", "linux/s390x"),
        ("linux/loongarch64", "linux/loong64"),
        ("s390x", "linux/s390x"),
        ("aarch64", "linux/arm64"),
    ],
)
def test_platforms_are_normalised(text: str, normal: str) -> None:
    assert format_platform(parse_platform(text)) == normal


def test_an_os_alone_has_the_hosts_architecture() -> None:
    assert parse_platform("linux") == host_platform()
    assert parse_platform("windows").architecture == host_platform().architecture


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", '"nonsense": unknown operating system or architecture: invalid argument'),
        ("a/b/c/d", '"a/b/c/d": cannot parse platform specifier: invalid argument'),
        ("linux/*", '"linux/*": wildcards not yet supported: invalid argument'),
        ("linux/", '"" is an invalid component of "linux/"'),
        ("linux/am d64", '"am d64" is an invalid component of "linux/am d64"'),
        ("", '"" is an invalid component of ""'),
    ],
)
def test_malformed_platforms_have_containerds_texts(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_platform(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/386", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/386", "linux/arm64"], "linux/386"),
        ("linux/amd64", ["windows/amd64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v7", ["linux/arm/v8", "linux/arm/v5"], "linux/arm/v5"),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/amd64", [None, "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["linux/arm64", None], None),
        ("linux/amd64", ["linux/amd64", "unknown/unknown"], "linux/amd64"),
    ],
)
def test_the_nearest_manifest_is_chosen(wanted: str, offered: list[str | None], chosen: str | None) -> None:
    assert choose([entry(text) for text in offered], parse_platform(wanted)) == entry(chosen)


def test_nothing_that_fits_has_dockers_text() -> None:
    with pytest.raises(NotFound) as caught:
        choose([entry("linux/amd64"), entry("windows/s390x")], parse_platform("linux/s390x"))
    assert str(caught.value) == "no matching manifest for linux/s390x in the manifest list entries"
    with pytest.raises(NotFound):
        choose([], None)


def test_matching_is_exact() -> None:
    assert matches(Platform(os="linux", architecture="x86_64"), Platform(os="linux", architecture="amd64"))
    assert not matches(Platform(os="linux", architecture="amd64"), Platform(os="linux", architecture="386"))


@given(st.text(max_size=30))
def test_any_text_is_a_platform_or_refused(text: str) -> None:
    try:
        platform = parse_platform(text)
    except InvalidParameter:
        return
    assert normalise(platform) == platform
