"""Flags and daemon.json, in dockerd's words."""

from __future__ import annotations

import os
import re

import pytest

from wherry.daemon.config import Help, load, parse_size
from wherry.errors import InvalidParameter


def config_file(tmp_path: object, text: str) -> str:
    path = f"{tmp_path}/daemon.json"
    with open(path, "w") as file:
        file.write(text)
    return path


def test_no_file_and_empty_files_are_fine(tmp_path: object) -> None:
    assert load([])[0].hosts == ("unix:///run/wherry/wherry.sock",)
    for text in ("", "{}", "\n"):
        assert load(["--config-file", config_file(tmp_path, text)])[0].log_level == "info"


def test_flags_in_all_forms() -> None:
    settings, validate = load(
        ["-H", "unix:///a", "--host=tcp://127.0.0.1:1", "-D", "--data-root", "/d", "-bnone", "--label", "a=b", "--label=c=d",
         "--log-opt", "max-size=1m", "--add-runtime", "x=/bin/x", "--default-ulimit", "nofile=1:2", "--init=false", "--validate"]
    )  # fmt: skip
    engine = settings.engine
    assert validate and settings.hosts == ("unix:///a", "tcp://127.0.0.1:1") and settings.log_level == "debug"
    assert (engine.data_root, engine.bridge, engine.labels) == ("/d", "none", ("a=b", "c=d"))
    assert engine.log_opts == {"max-size": "1m"} and engine.default_ulimits == {"nofile": (1, 2)}
    assert engine.runtimes["x"].path == "/bin/x" and engine.init is False


def test_networks_are_set_by_flags_and_by_the_file(tmp_path: object) -> None:
    engine = load(
        ["--bip6", "fd00:9::1/64", "--ipv6", "--icc=false", "--ip-masq=false", "--iptables=false", "--fixed-cidr",
         "10.0.0.0/25", "--default-address-pool", "base=10.0.0.0/8,size=24", "--default-address-pool",
         "base=fd00::/48,size=64", "--default-network-opt", "bridge=com.docker.network.driver.mtu=1400"]
    )[0].engine  # fmt: skip
    assert (engine.bip6, engine.ipv6, engine.icc, engine.ip_masq, engine.iptables) == (
        "fd00:9::1/64", True, False, False, False
    )  # fmt: skip
    assert engine.default_address_pools == (("10.0.0.0/8", 24), ("fd00::/48", 64))
    assert engine.default_network_opts == {"bridge": {"com.docker.network.driver.mtu": "1400"}}
    text = (
        '{"default-address-pools": [{"base": "10.0.0.0/8", "size": 24}], "fixed-cidr-v6": "fd00::/64",'
        ' "ip6tables": false, "ip-forward": false, "default-network-opts": {"bridge": {"a": "b"}}}'
    )
    settings = load(["--config-file", config_file(tmp_path, text)])[0]
    assert settings.engine.default_address_pools == (("10.0.0.0/8", 24),) and settings.warnings == ()
    assert settings.engine.fixed_cidr_v6 == "fd00::/64" and settings.engine.default_network_opts == {
        "bridge": {"a": "b"}
    }
    assert not settings.engine.ip6tables and not settings.engine.ip_forward and settings.engine.icc


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--default-address-pool", "x"], "invalid field 'x' must be a key=value pair"),
        (["--default-address-pool", "base=10.0.0.0/8,size=x"], "invalid size value: x"),
        (["--default-address-pool", "base=10.0.0.0/8,foo=1"], "unexpected key 'foo' in 'foo=1'"),
        (["--default-address-pool", "base=10.0.0.0/8"], "expected a base and a size"),
        (["--default-address-pool", "base=10.0.0.1/8,size=24"], "invalid base pool '10.0.0.1/8'"),
        (["--default-network-opt", "bridge=x"], "expected DRIVER=KEY=VALUE"),
        (["--icc=perhaps"], 'invalid argument "perhaps" for "--icc" flag'),
    ],
)
def test_bad_network_settings_name_themselves(flags: list[str], what: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        load(flags)
    assert what in str(caught.value)


def test_the_file_sets_the_same(tmp_path: object) -> None:
    text = (
        '{"debug": true, "registry-mirrors": ["https://m"], "runtimes": {"y": {"path": "/y", "runtimeArgs": ["-z"]}},'
        ' "log-opts": {"tag": "x"}, "default-shm-size": "8m", "live-restore": false, "raw-logs": true}'
    )
    settings, _ = load(["--config-file", config_file(tmp_path, text)])
    assert settings.engine.registry_mirrors == ("https://m",) and settings.log_level == "debug"
    assert settings.engine.runtimes["y"].args == ("-z",) and settings.engine.default_shm_size == 8 << 20
    assert not settings.engine.live_restore
    assert len(settings.warnings) == 1 and "raw-logs" in settings.warnings[0]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('{"debug": true,}', "invalid character '}' looking for beginning of object key string"),
        ("// x\n{}", "invalid character '/' looking for beginning of value"),
        ('{"debug": true', "unexpected end of JSON input"),
        ('{"debug" true}', "invalid character 't' after object key"),
        ('{"hosts": ["a" "b"]}', "invalid character '\"' after array element"),
        ('{"a": 1} x', "invalid character 'x' after top-level value"),
        ('{"foo": 1, "bar": 2}', "the following directives don't match any configuration option: bar, foo"),
        ('{"debug": "yes"}', "debug: expected a boolean, got 'yes'"),
        ('{"hosts": [1]}', "hosts: expected a list of strings"),
        ('{"log-level": "loud"}', "invalid logging level: loud"),
        ('{"labels": ["x"]}', "bad attribute format: x"),
        ('{"default-runtime": "x"}', "specified default runtime 'x' does not exist"),
    ],
)
def test_a_broken_file_is_refused_in_dockerds_words(tmp_path: object, text: str, what: str) -> None:
    path = config_file(tmp_path, text)
    with pytest.raises(InvalidParameter) as refused:
        load(["--config-file", path])
    assert what in str(refused.value)
    if "invalid character" in what:
        assert re.search(r"line \d+, column \d+", str(refused.value)) and "^" in str(refused.value)


def test_flag_and_file_at_once(tmp_path: object) -> None:
    path = config_file(tmp_path, '{"debug": false}')
    with pytest.raises(InvalidParameter) as refused:
        load(["--config-file", path, "-D"])
    assert str(refused.value) == (
        f"unable to configure the Docker daemon with file {path}: the following directives are specified both as a"
        " flag and in the configuration file: debug: (from flag: true, from file: false)"
    )


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["--mtu"], "flag needs an argument: --mtu"),
        (["--mtu", "x"], 'invalid argument "x" for "--mtu" flag'),
        (["--debug=maybe"], 'invalid argument "maybe" for "--debug" flag'),
        (["start"], "unknown command: wherryd start"),
        (["--config-file", "/nonexistent/x"], "open /nonexistent/x: no such file or directory"),
    ],
)
def test_bad_flags(argv: list[str], what: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        load(argv)
    assert what in str(refused.value)


def test_help_lists_every_flag() -> None:
    with pytest.raises(Help) as text:
        load(["--help"])
    assert "--registry-mirror" in str(text.value) and "docker run" in str(text.value)


def test_sizes() -> None:
    assert [parse_size(t) for t in ("64m", "1GiB", "10", "1.5k")] == [64 << 20, 1 << 30, 10, 1536]
    for bad in ("", "x", "-1", "1q"):
        with pytest.raises(InvalidParameter):
            parse_size(bad)


def test_relative_roots_become_absolute() -> None:
    assert load(["--data-root", "x"])[0].engine.data_root == os.path.abspath("x")


def test_where_ports_are_published_has_two_names(tmp_path: object) -> None:
    file = config_file(tmp_path, '{"default-publish-address": "127.0.0.1"}')
    for flags in ([], ["--ip", "127.0.0.1"]):
        assert load([*flags, "--config-file", file])[0].engine.publish_address == "127.0.0.1"
    with pytest.raises(InvalidParameter, match="mean the same"):
        load(["--ip", "127.0.0.2", "--config-file", file])
