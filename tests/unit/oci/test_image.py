from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.oci import image
from wherry.oci.image import Index, Manifest, created_ns, parse_config, parse_manifest

D = "sha256:" + "a" * 64


def descriptor(**fields: Any) -> dict[str, Any]:
    return {"mediaType": image.OCI_LAYER_GZIP, "digest": D, "size": 10, **fields}


def manifest(**fields: Any) -> bytes:
    document = {"schemaVersion": 2, "config": descriptor(), "layers": [descriptor()], **fields}
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def index(**fields: Any) -> bytes:
    entry = descriptor(mediaType=image.OCI_MANIFEST, platform={"os": "linux", "architecture": "amd64"})
    return json.dumps({"schemaVersion": 2, "manifests": [entry], **fields}).encode()


def test_the_document_or_its_label_says_what_it_is() -> None:
    for data, label, kind, media_type in (
        (manifest(), image.OCI_MANIFEST, Manifest, image.OCI_MANIFEST),
        (manifest(mediaType=image.DOCKER_MANIFEST), "", Manifest, image.DOCKER_MANIFEST),
        (
            manifest(mediaType=image.DOCKER_MANIFEST),
            "text/html; charset=utf-8",
            Manifest,
            image.DOCKER_MANIFEST,
        ),
        (manifest(), "", Manifest, image.OCI_MANIFEST),
        (index(), "", Index, image.OCI_INDEX),
        (index(mediaType=image.DOCKER_INDEX), image.DOCKER_INDEX, Index, image.DOCKER_INDEX),
        (index(), image.OCI_INDEX + "; charset=utf-8", Index, image.OCI_INDEX),
    ):
        parsed = parse_manifest(data, label)
        assert type(parsed) is kind
        assert parsed.media_type == media_type


def test_an_entrys_platform_is_read() -> None:
    parsed = parse_manifest(index())
    assert isinstance(parsed, Index)
    platform = parsed.manifests[0].platform
    assert platform is not None
    assert (platform.os, platform.architecture, platform.variant) == ("linux", "amd64", "")


@pytest.mark.parametrize(
    ("data", "label", "message"),
    [
        (b"", "", "invalid manifest: "),
        (b"<html>", "text/html", "invalid manifest: "),
        (b"[]", "", "invalid manifest: expected a JSON object"),
        (b"null", "", "invalid manifest: expected a JSON object"),
        (b'{"a":' * 200_000, "", "invalid manifest: "),
        (b"[" * 200_000, "", "invalid manifest: "),
        (b'{"schemaVersion":2,"mediaType":"\xff"}', "", "invalid manifest: "),
        (manifest(schemaVersion=1), "", "unsupported manifest schema version 1"),
        (manifest(schemaVersion=...), "", "unsupported manifest schema version None"),
        (manifest(), image.DOCKER_SCHEMA1[1], "Docker Image manifest version 2, schema 1 is not supported"),
        (manifest(mediaType=image.OCI_INDEX), "", "media-type: expected index but found manifest"),
        (index(mediaType=image.OCI_MANIFEST), "", "media-type: expected manifest but found index"),
        (manifest(mediaType=image.OCI_MANIFEST), image.DOCKER_MANIFEST, "mediaType in manifest should be"),
        (manifest(mediaType=image.OCI_MANIFEST), image.OCI_INDEX, "mediaType in manifest should be"),
        (manifest(manifests=[descriptor()]), "", "media-type: expected manifest but found index"),
        (
            manifest(manifests=[descriptor()]),
            image.OCI_INDEX,
            "media-type: expected index but found manifest",
        ),
        (
            manifest(mediaType="application/x-other"),
            "",
            "unsupported manifest media type 'application/x-other'",
        ),
        (manifest(mediaType=7), "", "invalid manifest: mediaType is not a string"),
        (
            manifest(config=...),
            image.OCI_MANIFEST,
            "invalid manifest: Object missing required field `config`",
        ),
        (manifest(layers={}), "", "invalid manifest: Expected `array`, got `object` - at `$.layers`"),
        (
            manifest(config=descriptor(digest="md5:" + "a" * 32)),
            "",
            "invalid manifest: config: invalid digest",
        ),
        (
            manifest(layers=[descriptor(digest="sha256:../../x")]),
            "",
            "invalid manifest: layers[0]: invalid digest",
        ),
        (manifest(layers=[descriptor(size=-1)]), "", "invalid manifest: layers[0]: size -1 is out of range"),
        (manifest(layers=[descriptor(size=2**62)]), "", "invalid manifest: layers[0]: size"),
        (manifest(layers=[descriptor(size="10")]), "", "invalid manifest: Expected `int`, got `str`"),
        (manifest(layers=[descriptor()] * 501), "", "too many layers: 501, at most 500 are allowed"),
        (b" " * (5 << 20), "", "manifest is too large: 5242880 bytes"),
    ],
)
def test_malformed_manifests_are_refused_by_name(data: bytes, label: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_manifest(data, label)
    assert str(caught.value).startswith(message)


DOCKER_CONFIG = {
    "architecture": "amd64",
    "config": {
        "Hostname": "",
        "User": "1000",
        "ExposedPorts": {"80/tcp": {}},
        "Env": ["PATH=/bin"],
        "Cmd": ["sh"],
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30_000_000_000, "Retries": 3},
        "ArgsEscaped": True,
        "Volumes": None,
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": {"a": "b"},
        "StopSignal": "SIGQUIT",
        "StopTimeout": 5,
        "Shell": ["/bin/sh", "-c"],
        "NewField": {"x": 1},
    },
    "container": "abc",
    "container_config": {"Cmd": ["/bin/sh", "-c", '#(nop)  CMD ["sh"]']},
    "created": "2024-01-02T03:04:05.123456789Z",
    "docker_version": "20.10.24",
    "history": [
        {"created": "2024-01-02T03:04:05Z", "created_by": "x", "empty_layer": True},
        {"comment": "c"},
    ],
    "os": "linux",
    "rootfs": {"type": "layers", "diff_ids": [D]},
}


def test_dockers_own_fields_are_read() -> None:
    config = parse_config(json.dumps(DOCKER_CONFIG).encode())
    assert config.config is not None
    assert config.config.user == "1000"
    assert config.config.exposed_ports == {"80/tcp": {}}
    assert config.config.args_escaped
    assert config.config.entrypoint is None
    assert config.config.stop_timeout == 5
    assert config.config.healthcheck is not None
    assert config.config.healthcheck.interval == 30_000_000_000
    assert config.container_config is not None
    assert config.history[0].empty_layer
    assert config.history[1].comment == "c"
    assert config.rootfs.diff_ids == (D,)
    assert created_ns(config) == 1_704_164_645_123_456_789


def test_null_is_a_missing_value_as_for_go() -> None:
    config = parse_config(b'{"config":null,"history":null,"author":null,"rootfs":{"diff_ids":null}}')
    assert config.config is None
    assert config.history == []
    assert config.rootfs.diff_ids == ()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("2015-10-31T22:22:56.015925234Z", 1_446_330_176_015_925_234),
        ("0001-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59Z", 0),
        ("2024-13-01T00:00:00Z", 0),
        ("", 0),
        ("yesterday", 0),
    ],
)
def test_creation_times_that_cannot_be_are_zero(text: str, wanted: int) -> None:
    assert created_ns(parse_config(json.dumps({"created": text}).encode())) == wanted


@pytest.mark.parametrize(
    "document",
    [
        {"rootfs": {"diff_ids": ["sha256:short"]}},
        {"rootfs": {"diff_ids": [D] * 501}},
        {"rootfs": {"type": "windows", "diff_ids": []}},
        {"rootfs": {"diff_ids": "x"}},
        {"config": {"Env": "PATH=/"}},
        {"config": {"Cmd": [1]}},
        {"history": {}},
        [],
    ],
)
def test_malformed_configs_are_refused(document: object) -> None:
    with pytest.raises(InvalidParameter):
        parse_config(json.dumps(document).encode())


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just(D),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            "schemaVersion mediaType config layers manifests annotations subject rootfs history created os".split()
        ),
        values | st.just(2) | st.just(descriptor()) | st.just([descriptor()]) | st.just(image.OCI_MANIFEST),
    )
)
def test_any_json_is_parsed_or_refused(document: dict[str, Any]) -> None:
    data = json.dumps(document).encode()
    for parse in (parse_manifest, parse_config):
        try:
            parse(data)
        except InvalidParameter:
            pass


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for parse in (parse_manifest, parse_config):
        try:
            parse(data)
        except InvalidParameter:
            pass
