"""What the options of `run` and `create` become; every flag is compared with docker's in tests/docker."""

from __future__ import annotations

import os
import shlex
from typing import Any

import pytest

from wherry.cli.create import attached, create_body
from wherry.cli.flags import FlagError, parse
from wherry.cli.run_flags import RUN_ROWS


def body(line: str) -> dict[str, Any]:
    options, arguments = parse(RUN_ROWS, shlex.split(line), interspersed=False)
    return create_body(options, arguments[0], arguments[1:], console=(24, 80))


def host(line: str) -> dict[str, Any]:
    return body(f"{line} image")["HostConfig"]


def test_nothing_asked_for_is_nearly_nothing_sent() -> None:
    sent = body("image")
    assert {key: value for key, value in sent.items() if key not in ("HostConfig", "NetworkingConfig")} == {
        "AttachStdout": True,
        "AttachStderr": True,
        "Image": "image",
        "Labels": {},
        "Volumes": {},
    }
    assert {key: value for key, value in sent["HostConfig"].items() if value} == {"NetworkMode": "default"}


def test_the_command_is_everything_after_the_image() -> None:
    assert body("-i image sh -c 'a b' -i --rm")["Cmd"] == ["sh", "-c", "a b", "-i", "--rm"]


@pytest.mark.parametrize(
    ("line", "streams"),
    [
        ("image", (False, True, True)),
        ("-i image", (True, True, True)),
        ("-d -i image", (False, False, False)),
        ("-a stdin -a STDERR image", (True, False, True)),
    ],
)
def test_what_is_attached(line: str, streams: tuple[bool, bool, bool]) -> None:
    options, _ = parse(RUN_ROWS, line.split(), interspersed=False)
    assert attached(options) == streams


def test_stdin_is_closed_with_its_only_client() -> None:
    assert body("-i image")["StdinOnce"]
    assert "StdinOnce" not in body("-d -i image")


def test_the_terminals_size_goes_with_a_tty_only() -> None:
    assert host("-t")["ConsoleSize"] == [24, 80]
    assert "ConsoleSize" not in host("-i")


def test_files_of_variables_and_labels(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHERRY_GIVEN", "here")
    path = os.path.join(str(tmp_path), "file")
    with open(path, "w") as file:
        file.write("\ufeff# note\n\n  A=1 2\nWHERRY_GIVEN\nWHERRY_NOT_GIVEN\nB=\r\n")
    assert body(f"--env-file {path} -e C=3 image")["Env"] == ["A=1 2", "WHERRY_GIVEN=here", "B=", "C=3"]
    assert body(f"--label-file {path} -l D image")["Labels"] == {
        "A": "1 2",
        "WHERRY_GIVEN": "",
        "WHERRY_NOT_GIVEN": "",
        "B": "",
        "D": "",
    }


@pytest.mark.parametrize(
    ("content", "message"), [("a b=c", "contains whitespaces"), ("=x", "no variable name on line '=x'")]
)
def test_lines_that_are_no_variables(tmp_path: object, content: str, message: str) -> None:
    path = os.path.join(str(tmp_path), "file")
    with open(path, "w") as file:
        file.write(content)
    with pytest.raises(ValueError, match=message):
        body(f"--env-file {path} image")


def test_capabilities_are_spelled_one_way_and_given_wins_over_taken() -> None:
    config = host("--cap-add net_admin --cap-add CAP_SYS_TIME --cap-drop all")
    assert (config["CapAdd"], config["CapDrop"]) == (["CAP_NET_ADMIN", "CAP_SYS_TIME"], ["ALL"])
    config = host("--cap-add chown --cap-drop chown --cap-drop mknod")
    assert (config["CapAdd"], config["CapDrop"]) == (["CAP_CHOWN"], ["CAP_MKNOD"])


def test_a_seccomp_profile_is_sent_and_not_named(tmp_path: object) -> None:
    path = os.path.join(str(tmp_path), "profile.json")
    with open(path, "w") as file:
        file.write('{\n "defaultAction": "SCMP_ACT_ALLOW"\n}')
    assert host(f"--security-opt seccomp={path}")["SecurityOpt"] == [
        'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}'
    ]


def test_a_relative_source_is_from_here() -> None:
    assert host("-v ./x:/y -v name:/z")["Binds"] == [f"{os.getcwd()}/x:/y", "name:/z"]
    assert body("-v /anon image")["Volumes"] == {"/anon": {}}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--pid foo", "--pid: invalid PID mode"),
        ("--pid container:", "--pid: invalid PID mode"),
        ("--uts foo", "--uts: invalid UTS mode"),
        ("--userns foo", "--userns: invalid USER mode"),
        ("--cgroupns foo", "--cgroupns: invalid CGROUP mode"),
        ("--health-retries -1", "--health-retries cannot be negative"),
        ("--no-healthcheck --health-cmd x", "--no-healthcheck conflicts with --health-* options"),
        ("--memory-swappiness 300", "invalid value: 300. Valid memory swappiness range is 0-100"),
        ("--device a:b:c:d", "bad format for path: a:b:c:d"),
        ("--device /a:/b:xyz", "bad mode specified: xyz"),
        ("--storage-opt foo", "invalid storage option"),
        ("--log-driver none --log-opt a=b", "invalid logging opts for driver none"),
        ("--restart on-failure:x", "invalid restart policy format: maximum retry count must be an integer"),
        ("--restart :3", "invalid restart policy format: no policy provided before colon"),
        ("--network-alias q", "network-scoped aliases are only supported for user-defined networks"),
        ("--network ''", "no name set for network"),
        ("--network a --network a", 'network "a" is specified multiple times'),
        ("--mac-address foo", "foo is not a valid mac address"),
        ("--security-opt foo", 'invalid --security-opt: "foo"'),
        (
            "--security-opt seccomp=/nope",
            "opening seccomp profile (/nope) failed: open /nope: no such file or directory",
        ),
        ("--device-cgroup-rule foo", "invalid device cgroup format 'foo'"),
        ("-p abc", "invalid containerPort: abc"),
        ("-p 80/xyz", "invalid proto: xyz"),
        ("-p 99999:1", "invalid hostPort: 99999"),
        ("-p 1.2.3:1:1", "invalid IP address: 1.2.3"),
        ("-p 1-2:1-3", "invalid ranges specified for container and host Ports: 1-3 and 1-2"),
        (
            "--expose foo",
            'invalid range format for --expose: foo, error: strconv.ParseUint: parsing "foo": invalid syntax',
        ),
    ],
)
def test_refusals_are_dockers(line: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        host(line)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--cpus abc", 'invalid argument "abc" for "--cpus" flag: failed to parse abc as a rational number'),
        ("-m abc", 'invalid argument "abc" for "-m, --memory" flag: invalid size: \'abc\''),
        (
            "-a foo",
            'invalid argument "foo" for "-a, --attach" flag: valid streams are STDIN, STDOUT and STDERR',
        ),
        ("--ulimit x", 'invalid argument "x" for "--ulimit" flag: invalid ulimit argument: x'),
        ("--ulimit foo=5", 'invalid argument "foo=5" for "--ulimit" flag: invalid ulimit type: foo'),
        (
            "--ulimit nofile=9:5",
            'invalid argument "nofile=9:5" for "--ulimit" flag: ulimit soft limit must be less than or equal to hard '
            "limit: 9 > 5",
        ),
        ("--sysctl a=b", 'invalid argument "a=b" for "--sysctl" flag: sysctl \'a=b\' is not allowed'),
        (
            "--mount foo",
            'invalid argument "foo" for "--mount" flag: invalid field \'foo\' must be a key=value pair',
        ),
        (
            "--mount type=bind,src=/a",
            'invalid argument "type=bind,src=/a" for "--mount" flag: target is required',
        ),
        (
            "--mount type=bind,foo=bar,dst=/b",
            "invalid argument \"type=bind,foo=bar,dst=/b\" for \"--mount\" flag: unexpected key 'foo' in 'foo=bar'",
        ),
        ("-e ''", 'invalid argument "" for "-e, --env" flag: invalid environment variable: '),
        ("-l =x", 'invalid argument "=x" for "-l, --label" flag: invalid label \'=x\': empty name'),
        ("--dns foo", 'invalid argument "foo" for "--dns" flag: IP address is not correctly formatted: foo'),
        ("--add-host foo", 'invalid argument "foo" for "--add-host" flag: bad format for add-host: "foo"'),
        ("--network name=foo,bar", 'invalid argument "name=foo,bar" for "--network" flag: invalid field bar'),
        (
            "--blkio-weight 99999",
            'invalid argument "99999" for "--blkio-weight" flag: strconv.ParseUint: parsing "99999": value out of range',
        ),
    ],
)
def test_values_that_cannot_be_read(line: str, message: str) -> None:
    with pytest.raises(FlagError) as caught:
        host(line)
    assert str(caught.value) == message
