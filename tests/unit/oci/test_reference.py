from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.oci.digest import Digest
from wherry.oci.reference import Reference, is_image_id, parse_reference

D = Digest("sha256:" + "0123456789abcdef" * 4)


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("user/x", "docker.io/user/x", "user/x"),
        ("library/x", "docker.io/library/x", "x"),
        ("library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("docker.io/x", "docker.io/library/x", "x"),
        ("index.docker.io/x", "docker.io/library/x", "x"),
        ("docker.io/user/x:1", "docker.io/user/x:1", "user/x:1"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
        ("ghcr.io/a/b/c:v1.0-rc_2", "ghcr.io/a/b/c:v1.0-rc_2", "ghcr.io/a/b/c:v1.0-rc_2"),
        ("[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x"),
        ("Upper/x", "Upper/x", "Upper/x"),
        (f"busybox@{D}", f"docker.io/library/busybox@{D}", f"busybox@{D}"),
        (f"r.io/x:1@{D}", f"r.io/x:1@{D}", f"r.io/x:1@{D}"),
        ("a--b__c.d_e", "docker.io/library/a--b__c.d_e", "a--b__c.d_e"),
        ("x:" + "t" * 128, "docker.io/library/x:" + "t" * 128, "x:" + "t" * 128),
    ],
)
def test_every_spelling_has_one_canonical_and_one_familiar_form(
    text: str, canonical: str, familiar: str
) -> None:
    reference = parse_reference(text)
    assert reference.canonical == canonical == str(reference)
    assert reference.familiar == familiar
    assert parse_reference(canonical) == parse_reference(familiar) == reference


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid reference format"),
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("user/Foo:1", "invalid reference format: repository name (user/Foo) must be lowercase"),
        ("r.io/Foo/x", "invalid reference format: repository name (Foo/x) must be lowercase"),
        ("x:", "invalid reference format"),
        ("x:-a", "invalid reference format"),
        ("x:" + "t" * 129, "invalid reference format"),
        (" x", "invalid reference format"),
        ("x ", "invalid reference format"),
        ("x\n", "invalid reference format"),
        ("x y", "invalid reference format"),
        ("/x", "invalid reference format"),
        ("x/", "invalid reference format"),
        ("x//y", "invalid reference format"),
        ("-x", "invalid reference format"),
        ("x-", "invalid reference format"),
        ("x..y", "invalid reference format"),
        ("x___y", "invalid reference format"),
        ("../x", "invalid reference format"),
        ("http://r.io/x", "invalid reference format"),
        ("r.io:port/x", "invalid reference format"),
        ("x@y", "invalid reference format"),
        ("x@sha256:12", "invalid reference format"),
        ("x@sha256:" + "a" * 63, "invalid checksum digest length"),
        ("x@sha256:" + "A" * 64, "invalid checksum digest format"),
        ("x@md5:" + "a" * 32, "unsupported digest algorithm"),
        ("x@sha256:" + "a" * 64 + ":1", "invalid reference format"),
        ("x" * 300, "repository name must not be more than 255 characters"),
        ("x" * 5000, "invalid reference format"),
        ("é", "invalid reference format"),
        (
            "a" * 64,
            f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings",
        ),
    ],
)
def test_malformed_references_have_the_reference_implementations_texts(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_reference(text)
    assert str(caught.value) == message


def test_no_tag_means_latest_only_when_asked() -> None:
    assert parse_reference("x").tag is None
    assert parse_reference("x").with_default_tag().familiar == "x:latest"
    assert parse_reference("x:1").with_default_tag().familiar == "x:1"
    assert parse_reference(f"x@{D}").with_default_tag().familiar == f"x@{D}"
    assert parse_reference("x:1").with_digest(D).familiar == f"x@{D}"
    assert parse_reference(f"x@{D}").with_tag("2").familiar == "x:2"
    with pytest.raises(InvalidParameter, match="invalid tag format"):
        parse_reference("x").with_tag("a b")


def test_image_ids_are_told_from_names() -> None:
    assert is_image_id(D)
    assert is_image_id(D.removeprefix("sha256:"))
    assert not is_image_id("abc")
    assert not is_image_id("sha256:abc")


components = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+){0,2}", fullmatch=True).filter(
    lambda t: len(t) < 40
)
domains = st.one_of(
    st.just("docker.io"),
    st.just("localhost"),
    st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,8}[a-zA-Z0-9])?\.[a-z]{2,4}(:[0-9]{1,5})?", fullmatch=True),
)
tags = st.one_of(st.none(), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True))


@given(domains, st.lists(components, min_size=1, max_size=4), tags, st.one_of(st.none(), st.just(D)))
def test_what_the_grammar_allows_is_parsed_and_printed_back(
    domain: str, parts: list[str], tag: str | None, digest: Digest | None
) -> None:
    if domain == "docker.io" and len(parts) == 1:
        parts = ["library", *parts]
    reference = Reference(domain, "/".join(parts), tag, digest)
    assert parse_reference(reference.canonical) == reference
    assert parse_reference(reference.familiar) == reference


@given(st.text(max_size=80))
@example("a" * 64)
@example("@")
@example("a:b:c")
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except InvalidParameter:
        return
    assert parse_reference(reference.canonical) == reference
    assert reference.path == reference.path.lower()
