"""How config.json is read: mounts, sysctls, environment, command lines, values of the wrong type."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.linux import mounts as linux
from wherry.linux.capabilities import bits
from wherry.runtime import mounts, procfs, values
from wherry.runtime.command import options
from wherry.runtime.errors import StartFailed, quote
from wherry.runtime.identity import Identity, parse_environment
from wherry.runtime.plan import Plan


def parsed(*wanted: str, kind: str = "tmpfs") -> mounts.Mount:
    return mounts.parse({"destination": "/x", "type": kind, "source": "s", "options": list(wanted)})


def test_attributes() -> None:
    mount = parsed("ro", "nosuid", "nodev", "noexec", "noatime")
    expected = (
        linux.ATTR_RDONLY | linux.ATTR_NOSUID | linux.ATTR_NODEV | linux.ATTR_NOEXEC | linux.ATTR_NOATIME
    )
    assert mount.add == expected


def test_the_later_of_two_opposites_counts() -> None:
    assert parsed("ro", "rw").add == 0
    assert parsed("ro", "rw").remove == linux.ATTR_RDONLY
    assert parsed("rw", "ro").add == linux.ATTR_RDONLY
    assert parsed("noatime", "strictatime").add == linux.ATTR_STRICTATIME


def test_recursive_attributes() -> None:
    mount = parsed("rbind", "rro", "rnosuid", kind="bind")
    assert mount.recursive_add == linux.ATTR_RDONLY | linux.ATTR_NOSUID
    assert mount.recursive_bind


def test_propagation() -> None:
    assert parsed("bind", "rslave", kind="bind").propagation == [(linux.MS_SLAVE, True)]
    assert parsed("bind", "shared", kind="bind").propagation == [(linux.MS_SHARED, False)]


def test_data_for_the_filesystem() -> None:
    assert parsed("size=64k", "mode=755", "sync", "huge").data == [
        ("size", "64k"),
        ("mode", "755"),
        ("sync", None),
        ("huge", None),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"destination": ""},
        {"destination": "/x"},
        {"destination": "/", "type": "tmpfs"},
        {"destination": "/proc", "type": "tmpfs"},
        {"destination": "/proc/sys", "type": "tmpfs"},
        {"destination": "/x/../proc/1", "type": "tmpfs"},
        {"destination": "proc", "type": "tmpfs"},
        {"destination": "/x", "type": "bind", "options": ["bind", "size=1"]},
        {"destination": "/x", "type": "bind", "options": ["tmpcopyup"]},
        {"destination": "/x", "type": "tmpfs", "options": "ro"},
        {"destination": "/x\0y", "type": "tmpfs"},
        {"destination": "/x", "type": "bind", "options": ["bind"], "uidMappings": [{"hostID": 1}]},
    ],
)
def test_mounts_that_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StartFailed) as caught:
        mounts.parse(wrong)
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize("path", ["/proc/meminfo", "/proc/cpuinfo", "/proc/uptime", "/proc/loadavg"])
def test_single_files_of_proc_may_be_replaced(path: str) -> None:
    assert mounts.parse({"destination": path, "source": "/x", "options": ["bind"]}).destination == path


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.x", "net/ipv4/conf/eth0.1/x"),
        ("net/ipv4/conf/eth0.1/x", "net/ipv4/conf/eth0.1/x"),
    ],
)
def test_sysctl_paths(key: str, path: str) -> None:
    assert procfs.sysctl_path(key) == path


@given(st.text(alphabet="ab./\0", max_size=12))
def test_sysctl_paths_go_nowhere_else(key: str) -> None:
    try:
        path = procfs.sysctl_path(key)
    except StartFailed:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))


def test_environment() -> None:
    assert parse_environment(["A=1", "B=x=y", "A=2", "C", "=odd"]) == {"A": "2", "B": "x=y", "C": ""}


def test_capabilities() -> None:
    assert bits(["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_NOT_YET"]) == 1 | 1 << 21


@pytest.mark.parametrize(
    ("words", "expected", "rest"),
    [
        (["--bundle", "x", "id"], {"bundle": ["x"]}, ["id"]),
        (
            ["-b", "x", "--force=true", "id", "--later"],
            {"bundle": ["x"], "force": ["true"]},
            ["id", "--later"],
        ),
        (["--bundle=x", "--", "-id"], {"bundle": ["x"]}, ["-id"]),
        (["-f", "-b=a", "-b=b"], {"force": ["true"], "bundle": ["a", "b"]}, []),
        (["-"], {}, ["-"]),
    ],
)
def test_command_lines(words: list[str], expected: dict[str, list[str]], rest: list[str]) -> None:
    known: options.Options = {"bundle": ("b", True), "force": ("f", False)}
    found = options.parse(words, known)
    assert (found.values, found.arguments) == (expected, rest)


@pytest.mark.parametrize("words", [["--nosuch"], ["--bundle"], ["--force=maybe"], ["-x"]])
def test_command_lines_that_are_wrong(words: list[str]) -> None:
    with pytest.raises(options.Usage):
        options.parse(words, {"bundle": ("b", True), "force": ("f", False)})


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (values.text, 1),
        (values.text, "a\0b"),
        (values.texts, "a"),
        (values.texts, [1]),
        (values.flag, 1),
        (values.number, True),
        (values.number, 1.5),
        (values.number, "1"),
        (values.child, []),
        (values.children, [1]),
        (values.mapping, {"a": 1}),
    ],
)
def test_values_of_the_wrong_type_are_named(read: Any, value: object) -> None:
    with pytest.raises(StartFailed, match="invalid key"):
        read({"key": value}, "key")


def test_values_that_are_absent() -> None:
    for entry in ({}, {"key": None}):
        assert values.text(entry, "key") == ""
        assert values.texts(entry, "key") == []
        assert values.flag(entry, "key") is False
        assert values.number(entry, "key") is None
        assert values.child(entry, "key") == {}
        assert values.children(entry, "key") == []


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KEYS = "ociVersion process root mounts linux hostname domainname annotations hooks".split()
LINUX = "namespaces devices maskedPaths readonlyPaths sysctl resources uidMappings rootfsPropagation".split()


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), json),
    st.dictionaries(st.sampled_from(LINUX), json),
    st.dictionaries(
        st.sampled_from("args env cwd user capabilities rlimits terminal consoleSize".split()), json
    ),
)
def test_any_json_is_understood_or_refused(
    top: dict[str, Any], linux_part: dict[str, Any], process: dict[str, Any]
) -> None:
    config = {
        "process": {"args": ["x"], "cwd": "/", **process},
        "linux": {"resources": {}, **linux_part},
        **top,
    }
    try:
        Plan(config, container_id="x", bundle="/", seccomp=None)
    except StartFailed as exc:
        assert exc.kind == "invalid"


@given(json)
def test_any_process_is_understood_or_refused(value: Any) -> None:
    entry = {"args": ["x"], "cwd": "/", "user": value, "rlimits": value, "env": value, "capabilities": value}
    try:
        Identity(entry, None)
    except StartFailed as exc:
        assert exc.kind == "invalid"


def test_quoting_as_go_does() -> None:
    assert quote('a"b\\') == '"a\\"b\\\\"'
