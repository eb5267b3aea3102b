"""`docker import` and the instructions of `--change`."""

from __future__ import annotations

import gzip
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import registry as fake
from tests.fakes.registry import FakeRegistry, digest_of, tar_of
from tests.unit.engine.image_fixtures import Bench, chunks_of
from wherry.engine.changes import apply_changes
from wherry.errors import InvalidParameter, WherryError
from wherry.oci.image import ContainerConfig

ROOT = tar_of({"bin/sh": b"shell"})


async def import_(
    bench: Bench, data: bytes, repo: str = "", tag: str = "", **options: Any
) -> list[dict[str, Any]]:
    return [
        message
        async for message in bench.images.import_image("-", repo, tag, stream=chunks_of(data), **options)
    ]


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
async def test_import(bench: Bench, compress: Any) -> None:
    messages = await import_(
        bench,
        compress(ROOT),
        "x",
        "1",
        changes=["CMD echo hi", "ENV A=b"],
        message="note",
        platform="linux/arm64",
    )
    (said,) = messages
    image = await bench.images.inspect("x:1")
    assert said == {"status": image.id}
    assert image.root_fs.layers == [digest_of(ROOT)]
    assert (image.comment, image.architecture, image.os) == ("note", "arm64", "linux")
    assert image.config.cmd == ["/bin/sh", "-c", "echo hi"]
    assert image.config.env == ["A=b"]
    (step,) = await bench.images.history("x:1")
    assert step.comment == "note"
    assert [event[:1] for event in bench.events] == [("tag",), ("import",)]


async def test_import_without_a_name(bench: Bench) -> None:
    (said,) = await import_(bench, ROOT)
    assert (await bench.images.inspect(said["status"])).comment == "Imported from -"


async def test_import_from_a_url(bench: Bench) -> None:
    async with FakeRegistry() as server:
        server.fault("/root.tar", fake.body(ROOT))
        url = f"http://{server.address}/root.tar"
        messages = [message async for message in bench.images.import_image(url, "x", "1")]
        assert messages[0] == {"status": f"Downloading from {url}"}
        assert messages[-1]["status"].startswith("sha256:")
        server.fault("/gone", fake.status(404))
        with pytest.raises(WherryError, match=r"Got HTTP status code >= 400: 404"):
            [
                message
                async for message in bench.images.import_image(f"http://{server.address}/gone", "x", "1")
            ]
    for url in ("file:///etc/passwd", "http://127.0.0.1:1/x"):
        with pytest.raises(WherryError):
            [message async for message in bench.images.import_image(url, "x", "1")]


@pytest.mark.parametrize("data", [b"garbage" * 1000, ROOT[:700], gzip.compress(ROOT)[:-9]])
async def test_what_is_no_tar_is_refused(bench: Bench, data: bytes) -> None:
    with pytest.raises(InvalidParameter):
        await import_(bench, data, "x", "1")
    assert await bench.is_empty()


async def test_bad_requests_are_refused_before_reading(bench: Bench) -> None:
    for options in ({"changes": ["RUN x"]}, {"platform": "a/b/c/d"}):
        with pytest.raises(InvalidParameter):
            await import_(bench, ROOT, "x", "1", **options)
    with pytest.raises(InvalidParameter):
        await import_(bench, ROOT, "UPPER", "1")


def changed(*changes: str, **before: Any) -> dict[str, Any]:
    """What the changes set."""
    config = apply_changes(ContainerConfig(**before), changes)
    plain = msgspec.json.decode(msgspec.json.encode(config))
    default = msgspec.json.decode(msgspec.json.encode(ContainerConfig()))
    return {key: value for key, value in plain.items() if value != default[key]}


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("CMD echo a  b", {"Cmd": ["/bin/sh", "-c", "echo a  b"]}),
        ('CMD ["sh", "-c", "echo $A"]', {"Cmd": ["sh", "-c", "echo $A"]}),
        ("CMD []", {"Cmd": []}),
        ("CMD [ not json", {"Cmd": ["/bin/sh", "-c", "[ not json"]}),
        ("cmd x", {"Cmd": ["/bin/sh", "-c", "x"]}),
        ('ENTRYPOINT ["/a"]', {"Entrypoint": ["/a"]}),
        ("ENTRYPOINT a b", {"Entrypoint": ["/bin/sh", "-c", "a b"]}),
        (
            'ENV A=1 B=\'two words\' C="three \\"3\\"" D=a\\ b',
            {"Env": ["A=1", "B=two words", 'C=three "3"', "D=a b"]},
        ),
        ("ENV A one two", {"Env": ["A=one two"]}),
        ("ENV A=1 \\\n  B=2", {"Env": ["A=1", "B=2"]}),
        ("LABEL a=b \"c d\"='e f'", {"Labels": {"a": "b", "c d": "e f"}}),
        (
            "EXPOSE 80 53/UDP 8000-8002",
            {"ExposedPorts": {p: {} for p in ("80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp")}},
        ),
        ("USER 1000:1000", {"User": "1000:1000"}),
        ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
        ('VOLUME ["/a b"]', {"Volumes": {"/a b": {}}}),
        ("WORKDIR a/../b", {"WorkingDir": "/b"}),
        ("STOPSIGNAL SIGUSR1", {"StopSignal": "SIGUSR1"}),
        ('SHELL ["/bin/bash", "-c"]', {"Shell": ["/bin/bash", "-c"]}),
        ("ONBUILD RUN make", {"OnBuild": ["RUN make"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        (
            "HEALTHCHECK --interval=1m30s --timeout=2s --retries=3 CMD curl x",
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "curl x"],
                    "Interval": 90 * 10**9,
                    "Timeout": 2 * 10**9,
                    "Retries": 3,
                }
            },
        ),
        ('HEALTHCHECK CMD ["a"]', {"Healthcheck": {"Test": ["CMD", "a"]}}),
        ("# comment\nUSER x", {"User": "x"}),
    ],
)
def test_changes(change: str, result: dict[str, Any]) -> None:
    assert changed(change) == result


@given(
    st.sampled_from(
        "CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD SHELL STOPSIGNAL USER VOLUME WORKDIR".split()
    ),
    st.text(
        alphabet=st.one_of(
            st.sampled_from("=\"'\\ \n[],{}-/:0123456789abAB$"), st.characters(exclude_categories=["Cs"])
        ),
        max_size=60,
    ),
)
def test_any_change_is_applied_or_refused(word: str, rest: str) -> None:
    try:
        config = apply_changes(ContainerConfig(), [f"{word} {rest}"])
    except InvalidParameter:
        return
    msgspec.json.encode(config)


def test_later_changes_replace_and_add() -> None:
    assert changed("ENV A=1 B=2", "ENV A=3", "WORKDIR /a", "WORKDIR b") == {
        "Env": ["A=3", "B=2"],
        "WorkingDir": "/a/b",
    }


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("WHAT 1", "^WHAT is not a valid change command$"),
        ("RUN x", "RUN is not a valid change command"),
        ("CMD", "CMD requires"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=b C", "can't find = in 'C'"),
        ("ENV =x", "ENV names can not be blank"),
        ("EXPOSE 99999", "invalid containerPort: 99999"),
        ("EXPOSE 80/foo", "invalid proto: foo"),
        ("EXPOSE 9-8", "invalid containerPort"),
        ("USER", "USER requires exactly one argument"),
        ("VOLUME []", "can not be an empty string"),
        ("SHELL /bin/sh", "JSON form"),
        ("ONBUILD FROM x", "isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK x", "Unknown type"),
        ("HEALTHCHECK --interval=x CMD a", "invalid duration"),
        ("HEALTHCHECK --what=1 CMD a", "Unknown flag"),
        ("STOPSIGNAL !", "invalid signal"),
    ],
)
def test_wrong_changes(change: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        changed(change)
