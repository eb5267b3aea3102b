"""SIGHUP, and the daemon's own log. What dockerd logs was taken from dockerd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tests.docker.engine import Wherry

Other = Callable[..., Wherry]

GIVEN = {
    "debug": True,
    "labels": ["a=b", "c=d"],
    "registry-mirrors": ["https://mirror.example"],
    "insecure-registries": ["10.9.0.0/16", "plain.example:5000"],
    "runtimes": {"mine": {"path": "/usr/bin/mine", "runtimeArgs": ["--x"]}},
    "default-runtime": "mine",
    "log-driver": "none",
    "max-concurrent-downloads": 7,
    "shutdown-timeout": 3,
}


def log_of(daemon: Wherry) -> str:
    with open(daemon.log_path, errors="replace") as file:
        return file.read()


def wait_for(daemon: Wherry, text: str, *, times: int = 1) -> str:
    """The log, once `text` is in it that often."""
    deadline = time.monotonic() + 60
    while (log := log_of(daemon)).count(text) < times:
        assert time.monotonic() < deadline, f"no {text!r} in {log[-3000:]}"
        time.sleep(0.02)
    return log


def reload(daemon: Wherry, config: object, *, expect: str = "Reloaded configuration: ") -> str:
    """Write daemon.json, send SIGHUP, and wait until the daemon has said `expect` once more."""
    text = config if isinstance(config, str) else json.dumps(config)
    path = f"{daemon.data_root}/daemon.json"
    with open(f"{path}.new", "w") as file:
        file.write(text)
    os.rename(f"{path}.new", path)
    before = log_of(daemon)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    return wait_for(daemon, expect, times=before.count(expect) + 1)[len(before) :]


def shown(daemon: Wherry) -> dict[str, Any]:
    info = daemon.api("GET", "/info").json
    return {
        "debug": info["Debug"],
        "labels": info["Labels"],
        "mirrors": info["RegistryConfig"]["Mirrors"],
        "insecure": info["RegistryConfig"]["InsecureRegistryCIDRs"],
        "hosts": sorted(info["RegistryConfig"]["IndexConfigs"]),
        "runtimes": sorted(set(info["Runtimes"]) - {"runc", "crun"}),
        "default": info["DefaultRuntime"],
        "log": info["LoggingDriver"],
    }


def test_a_running_daemon_takes_over_what_can_be_changed(other: Other) -> None:
    daemon = other()
    daemon.docker("run", "-d", "--name", "keeper", "busybox", "sleep", "300").ok()
    before = shown(daemon)
    assert before["labels"] == [] and not before["debug"]
    said = reload(daemon, GIVEN)
    assert f"Got signal to reload configuration, reloading from: {daemon.data_root}/daemon.json" in said
    assert shown(daemon) == {
        "debug": True,
        "labels": ["a=b", "c=d"],
        "mirrors": ["https://mirror.example/"],
        "insecure": ["10.9.0.0/16", "127.0.0.0/8"],
        "hosts": ["docker.io", "plain.example:5000"],
        "runtimes": ["mine", "wherry"],
        "default": "mine",
        "log": "none",
    }
    created = daemon.api("POST", "/containers/create?name=new", {"Image": "busybox"}).expect(201).json["Id"]
    host = daemon.api("GET", f"/containers/{created}/json").json["HostConfig"]
    assert (host["Runtime"], host["LogConfig"]["Type"]) == ("mine", "none")
    # What the file no longer says has its default again; containers keep what they were made with, or say what is missing.
    reload(daemon, {})
    assert shown(daemon) == before
    refused = daemon.api("POST", "/containers/new/start")
    assert refused.status == 400 and "unknown or invalid runtime name: mine" in refused.message
    assert daemon.docker("inspect", "-f", "{{.State.Running}}", "keeper").ok().line == "true"
    daemon.docker("run", "--rm", "busybox", "true").ok()


def test_the_event_tells_what_is_in_force(other: Other) -> None:
    daemon = other(image=False)
    reload(daemon, GIVEN)
    until = f"{time.time() + 0.001:.6f}"
    (event,) = daemon.api("GET", f"/events?since=0&until={until}&filters=" + '{"type":["daemon"]}').lines
    assert (event["Type"], event["Action"], event["scope"]) == ("daemon", "reload", "local")
    info = daemon.api("GET", "/info").json
    assert event["Actor"]["ID"] == info["ID"]
    attributes = event["Actor"]["Attributes"]
    assert attributes["name"] == info["Name"]
    assert "mine:/usr/bin/mine" in attributes["runtimes"].split()
    for key, value in {
        "debug": "true",
        "default-runtime": "mine",
        "default-shm-size": "67108864",
        "insecure-registries": '["10.9.0.0/16","plain.example:5000"]',
        "labels": '["a=b","c=d"]',
        "max-concurrent-downloads": "7",
        "registry-mirrors": '["https://mirror.example"]',
        "shutdown-timeout": "3",
    }.items():
        assert attributes[key] == value, key


def test_a_file_that_is_refused_changes_nothing(other: Other) -> None:
    daemon = other("--label", "flag=1", image=False)
    reload(daemon, {"debug": True, "registry-mirrors": ["https://one.example"]})
    before = shown(daemon)
    start = f"unable to configure the Docker daemon with file {daemon.data_root}/daemon.json: "
    for config, text in {
        '{"debug": false,': start,
        '{"debug": false, "nonsense": 1}': start
        + "the following directives don't match any configuration option: nonsense",
        '{"debug": false, "labels": ["file=1"]}': start
        + "the following directives are specified both as a flag and in the configuration file: labels:"
        " (from flag: [flag=1], from file: [file=1])",
        '{"debug": false, "registry-mirrors": ["not a url"]}': "invalid mirror: ",
        '{"debug": false, "default-runtime": "nope"}': "specified default runtime 'nope' does not exist",
        '{"debug": false, "max-concurrent-downloads": -2}': "invalid max concurrent downloads: -2",
        '{"debug": false, "log-level": "loud"}': "invalid logging level: loud",
    }.items():
        said = reload(daemon, config, expect=text)
        assert "level=error" in said and "Traceback" not in said and "Reloaded" not in said, said
        assert shown(daemon) == before
    assert before["labels"] == ["flag=1"]  # a flag is not the file's to change


def test_what_needs_a_start_is_named_and_waits_for_it(other: Other) -> None:
    daemon = other(image=False)
    said = reload(daemon, {"mtu": 1400, "labels": ["x=y"]})
    assert "from the next start of the daemon: mtu" in said
    assert shown(daemon)["labels"] == ["x=y"]


def test_the_level_of_the_log_is_taken_over(other: Other) -> None:
    daemon = other(image=False, config={"log-level": "error"})
    daemon.api("GET", "/containers/json?first=1")
    assert "level=info" not in log_of(daemon)
    reload_quietly(daemon, {"log-level": "debug"})
    daemon.api("GET", "/containers/json?second=1")
    log = wait_for(daemon, "second=1")
    assert (
        'level=debug msg="handling GET request" method=GET module=api request-url="/containers/json?second=1"'
        in log
    )
    assert "first=1" not in log


def reload_quietly(daemon: Wherry, config: object) -> None:
    """As `reload`, where the log's level hides what is waited for."""
    with open(f"{daemon.data_root}/daemon.json", "w") as file:
        json.dump(config, file)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(daemon, "Reloaded configuration")  # at the new level


def test_no_secret_is_in_the_log(other: Other) -> None:
    daemon = other("-D", image=False)
    daemon.api(
        "POST", "/containers/create", {"Image": "none", "Env": ["PASSWORD=hunter2"], "Labels": {"a": "b"}}
    )
    daemon.api("POST", "/auth", {"username": "me", "password": "hunter2", "serveraddress": "127.0.0.1:1"})
    daemon.api("POST", "/images/create?fromSrc=http://me:hunter2@127.0.0.1:1/x.tar&repo=x")
    log = wait_for(daemon, "fromSrc")
    assert '\\"Env\\":[\\"PASSWORD=*****\\"]' in log and '\\"password\\":\\"*****\\"' in log
    assert "hunter2" not in log


def test_json_and_the_journal(other: Other, tmp_path: object) -> None:
    daemon = other("--log-format", "json", image=False)
    lines = [json.loads(line) for line in log_of(daemon).splitlines()]
    assert {"level", "msg", "time"} <= set(lines[-1])
    # What systemd gives a service: stderr, and the name of what is behind it.
    daemon.stop_process()
    with open(f"{tmp_path}/journal", "wb") as journal:
        found = os.fstat(journal.fileno())
        daemon.process = subprocess.Popen(
            [*daemon.argv, "--log-format", "text"],
            stdin=subprocess.DEVNULL,
            stderr=journal,
            env={**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"},
        )
    daemon.wait_ready()
    with open(f"{tmp_path}/journal") as file:
        lines = file.read().splitlines()
    assert lines and all(line.startswith('<6>time="') for line in lines), lines
