"""Restart policies: after an exit, after the daemon's death, after a reboot."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker.engine import Engine, Wherry

PATIENCE_S = 60.0


def until(condition: Callable[[], Any], what: str = "the condition") -> Any:
    """Wait for something to come true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(0.02)
    return found


def show(engine: Engine, name: str) -> dict[str, Any]:
    answer = engine.api("GET", f"/containers/{name}/json").expect(200).json
    return {**answer["State"], "RestartCount": answer["RestartCount"]}


def status(engine: Engine, name: str) -> str:
    return str(show(engine, name)["Status"])


def until_status(engine: Engine, name: str, *wanted: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        state = show(engine, name)
        return state if state["Status"] in wanted else None

    return until(look, f"{name} being {wanted}")


def failing(engine: Engine, name: str, flag: Path, *, count: int = 3) -> dict[str, Any]:
    """A container that fails as long as there is no file `flag`, waiting for its next restart."""
    script = "test -e /flag/ok && exec sleep 1000; exit 3"
    mount = ("-v", f"{flag.parent}:/flag")
    engine.docker(
        "run", "-d", "--name", name, "--restart", "always", *mount, "busybox", "sh", "-c", script
    ).ok()

    def look() -> dict[str, Any] | None:
        state = show(engine, name)
        return state if state["Status"] == "restarting" and state["RestartCount"] >= count else None

    return until(look, f"{name} waiting for its restart")


def while_waiting(engine: Engine, name: str, act: Callable[[], Any]) -> Any:
    """What `act` gives while the container waits for its restart: again, with more time, if it was too slow."""
    while True:
        before = until_status(engine, name, "restarting")
        found = act()
        after = show(engine, name)
        if after["Status"] == "restarting" and after["RestartCount"] == before["RestartCount"]:
            return found
        engine.docker("unpause", name)


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    return tmp_path / "ok"


# After an exit


def test_while_it_waits_for_its_restart(engine: Engine, name: str, flag: Path) -> None:
    failing(engine, name, flag)
    full = engine.docker("inspect", "-f", "{{.Id}}", name).ok().line

    def refused(*argv: str, text: str) -> None:
        while_waiting(engine, name, lambda: engine.docker(*argv)).failed(1, text)

    state = while_waiting(engine, name, lambda: show(engine, name))
    assert (state["Running"], state["Restarting"], state["Pid"], state["ExitCode"]) == (True, True, 0, 3)
    (row,) = while_waiting(
        engine, name, lambda: engine.api("GET", "/containers/json", filters={"name": [name]})
    ).json
    assert row["State"] == "restarting" and row["Status"].startswith("Restarting (3) "), row
    filtered = ("ps", "-q", "--no-trunc", "-f", "status=restarting", "-f", f"name={name}")
    assert while_waiting(engine, name, lambda: engine.docker(*filtered)).line == full
    text = f"Container {full} is restarting, wait until the container is running"
    refused("exec", name, "true", text=text)
    refused("pause", name, text=text)
    refused("top", name, text=text)
    refused("attach", name, text="You cannot attach to a restarting container, wait until it is running")
    attach = while_waiting(
        engine, name, lambda: engine.api("POST", f"/containers/{name}/attach", stdout="1", stream="1")
    )
    assert attach.status == 409, attach.message
    refused("unpause", name, text=f"Container {full} is not paused")
    start = while_waiting(engine, name, lambda: engine.api("POST", f"/containers/{name}/start"))
    assert start.status == 304
    advice = "container is restarting: stop the container before removing or force remove"
    text = (
        f'cannot remove container "{name}": {advice}'
        if engine.is_wherry
        else "cannot remove a restarting container"
    )
    refused("rm", name, text=text)
    engine.docker("rm", "-f", name).ok()
    assert engine.docker("inspect", name).code == 1


@pytest.mark.parametrize("ending", [("stop",), ("kill",), ("kill", "-s", "HUP")])
def test_what_ends_the_restarts(engine: Engine, name: str, flag: Path, ending: tuple[str, ...]) -> None:
    before = failing(engine, name, flag)
    flag.touch()  # would run, were it started again
    while_waiting(engine, name, lambda: None)
    engine.docker(*ending, name).ok()
    after = until_status(engine, name, "exited")
    assert (after["Restarting"], after["Running"]) == (False, False)
    assert after["RestartCount"] >= before["RestartCount"]
    assert engine.api("POST", f"/containers/{name}/stop").status == 304


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_by_hand_it_begins_anew(engine: Engine, name: str, flag: Path, verb: str) -> None:
    failing(engine, name, flag)
    if verb == "start":
        engine.docker("stop", name).ok()
    flag.touch()
    engine.docker(verb, name).ok()
    state = show(engine, name)
    assert (state["Status"], state["RestartCount"], state["ExitCode"]) == ("running", 0, 0)


def test_on_failure_so_often_and_no_more(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", name, "--restart", "on-failure:2", "busybox", "sh", "-c", "exit 4"
    ).ok()
    state = until_status(engine, name, "exited")
    assert (state["RestartCount"], state["ExitCode"]) == (2, 4)
    engine.docker("update", "--restart", "on-failure:3", name).ok()
    assert status(engine, name) == "exited"


def test_success_is_no_failure(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "--restart", "on-failure", "busybox", "true").ok()
    assert until_status(engine, name, "exited")["RestartCount"] == 0


def test_another_policy_counts_from_the_next_exit(engine: Engine, name: str, flag: Path) -> None:
    failing(engine, name, flag)
    engine.docker("update", "--restart", "no", name).ok()
    assert until_status(engine, name, "exited")["ExitCode"] == 3
    policy = engine.api("GET", f"/containers/{name}/json").json["HostConfig"]["RestartPolicy"]
    assert policy == {"Name": "no", "MaximumRetryCount": 0}


def test_a_signal_is_the_wish_that_it_ends(engine: Engine, name: str) -> None:
    """Without a stop signal of its own any signal is: Docker's ways."""
    script = "trap 'exit 9' HUP; echo ready; while :; do sleep 0.1; done"
    for flags, after in (((), "exited"), (("--stop-signal", "TERM"), "running")):
        command = (
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            "unless-stopped",
            *flags,
            "busybox",
            "sh",
            "-c",
            script,
        )
        if after == "running":
            command = tuple("always" if word == "unless-stopped" else word for word in command)
        engine.docker(*command).ok()
        until(lambda: engine.docker("logs", name).out == "ready\n", "the trap")
        engine.docker("kill", "-s", "HUP", name).ok()
        until(
            lambda: show(engine, name)["ExitCode"] == 9 or show(engine, name)["RestartCount"] == 1, "its end"
        )
        assert until_status(engine, name, after, "exited")["Status"] == after
        engine.docker("rm", "-f", name).ok()


def test_a_process_killed_by_others_starts_again_with_all_it_had(wherry: Engine, name: str) -> None:
    wherry.docker("network", "create", name).ok()
    try:
        flags = ("--network", name, "--network-alias", "friend", "-p", "80")
        script = "echo hello >/index.html; httpd -f -h /"
        wherry.docker(
            "run", "-d", "--name", name, "--restart", "always", *flags, "busybox", "sh", "-c", script
        ).ok()
        pid = show(wherry, name)["Pid"]
        os.kill(pid, signal.SIGKILL)
        state = until(
            lambda: (now := show(wherry, name))["Status"] == "running" and now["Pid"] != pid and now,
            "another process",
        )
        assert state["RestartCount"] == 1 and state["ExitCode"] == 0
        get = ("run", "--rm", "--network", name, "busybox", "wget", "-qO-", "http://friend/")
        until(lambda: wherry.docker(*get).out == "hello\n", "an answer over the network")
        port = wherry.docker("port", name, "80").ok().out.splitlines()[0].rpartition(":")[2]
        until(
            lambda: (
                wherry.docker(
                    "run", "--rm", "--network", "host", "busybox", "wget", "-qO-", f"http://127.0.0.1:{port}/"
                ).out
                == "hello\n"
            ),
            "an answer at the port",
        )
    finally:
        wherry.docker("rm", "-f", name)
        wherry.docker("network", "rm", name)


def test_wait_tells_of_each_exit(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", name, "--restart", "always", "busybox", "sh", "-c", "sleep 1; exit 3"
    ).ok()
    assert engine.docker("wait", name).ok().line == "3"
    until(lambda: show(engine, name)["RestartCount"] >= 1, "a restart")


def test_in_the_foreground_the_first_exit_is_the_end(engine: Engine, name: str) -> None:
    ran = engine.docker(
        "run", "--name", name, "--restart", "always", "busybox", "sh", "-c", "echo once; exit 6"
    )
    assert (ran.code, ran.out) == (6, "once\n")


def test_events(engine: Engine, name: str) -> None:
    begin = str(time.time() - 1)
    engine.docker("run", "-d", "--name", name, "--restart", "on-failure:2", "busybox", "false").ok()
    until_status(engine, name, "exited")
    engine.docker("start", name).ok()
    until_status(engine, name, "exited")
    engine.docker("rm", name).ok()
    out = engine.docker(
        "events", "--since", begin, "--until", str(time.time() + 1), "-f", f"container={name}", "-f", "type=container",
        "--format", "{{.Action}}",
    ).ok()  # fmt: skip
    assert out.out.split() == ["create", *("start", "die") * 6, "destroy"]


def test_a_restart_that_cannot_be_made_is_the_last(engine: Engine, name: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    mount = f"type=bind,src={source},dst=/source"
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        "--restart",
        "always",
        "--mount",
        mount,
        "busybox",
        "sh",
        "-c",
        "sleep 1; exit 5",
    ).ok()
    source.rmdir()
    state = until_status(engine, name, "exited")
    assert state["ExitCode"] == 5 and str(source) in state["Error"], state
    source.mkdir()
    engine.docker("start", name).ok()


def test_what_is_no_policy(engine: Engine, name: str) -> None:
    def create(**policy: object) -> str:
        body = {"Image": "busybox", "HostConfig": {"RestartPolicy": policy}}
        answer = engine.api("POST", "/containers/create", body, name=name)
        assert answer.status == 400
        return answer.message

    if engine.is_wherry:  # dockerd 20.10 has other words
        use = "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        only = "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        assert create(Name="nope") == f"invalid restart policy: unknown policy 'nope'; {use}"
        assert create(Name="always", MaximumRetryCount=3) == only
        assert create(Name="no", MaximumRetryCount=-1) == f"{only} and cannot be negative"
        negative = "invalid restart policy: maximum retry count cannot be negative"
        assert create(Name="on-failure", MaximumRetryCount=-1) == negative
    body = {"Image": "busybox", "HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}}
    refused = engine.api("POST", "/containers/create", body, name=name)
    assert (refused.status, refused.message) == (
        400,
        "can't create 'AutoRemove' container with restart policy",
    )
    made = engine.api(
        "POST",
        "/containers/create",
        {
            "Image": "busybox",
            "Cmd": ["true"],
            "HostConfig": {"RestartPolicy": {"Name": "", "MaximumRetryCount": 2}},
        },
        name=name,
    )
    assert made.expect(201).json["Warnings"] == []


def test_a_container_that_removes_itself_has_no_policy(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--rm", "--name", name, "busybox", "sleep", "1000").ok()
    full = engine.docker("inspect", "-f", "{{.Id}}", name).ok().line
    refused = engine.api("POST", f"/containers/{name}/update", {"RestartPolicy": {"Name": "always"}})
    text = "Restart policy cannot be updated because AutoRemove is enabled for the container"
    assert (refused.status, refused.message) == (409, f"Cannot update container {full}: {text}")
    engine.api("POST", f"/containers/{name}/update", {"RestartPolicy": {"Name": "no"}}).expect(200)
    engine.docker("restart", "-t", "0", name).ok()
    assert status(engine, name) == "running", "--rm took it away in the middle of a restart"


# The daemon goes and comes


def boxes(daemon: Wherry) -> None:
    """One container of each kind: `run-*` run, `end-*` were stopped by hand."""
    sleep = ("busybox", "sleep", "1000")
    for policy in ("no", "always", "unless-stopped", "on-failure"):
        daemon.docker("run", "-d", "--name", f"run-{policy}", "--restart", policy, *sleep).ok()
        daemon.docker("run", "-d", "--name", f"end-{policy}", "--restart", policy, *sleep).ok()
    daemon.docker("create", "--name", "new", "--restart", "always", *sleep).ok()
    daemon.docker(
        "stop", "-t", "0", *(f"end-{p}" for p in ("no", "always", "unless-stopped", "on-failure"))
    ).ok()


def statuses(daemon: Wherry) -> dict[str, str]:
    rows = daemon.api("GET", "/containers/json", all="1").json
    return {row["Names"][0][1:]: row["State"] for row in rows}


AFTER = {
    "run-always": "running",
    "run-unless-stopped": "running",
    "run-on-failure": "running",
    "end-no": "exited",
    "end-always": "running",
    "end-unless-stopped": "exited",
    "end-on-failure": "running",
    "new": "created",
}


def settled(daemon: Wherry, wanted: dict[str, str]) -> None:
    until(lambda: "restarting" not in statuses(daemon).values(), "the end of restarts")
    assert statuses(daemon) == wanted


def test_when_a_daemon_starts(other: Callable[..., Wherry]) -> None:
    daemon = other()
    boxes(daemon)
    kept = {name: show(daemon, name)["StartedAt"] for name in AFTER if name.startswith("run-")}
    daemon.restart()
    settled(daemon, {**AFTER, "run-no": "running"})
    assert {name: show(daemon, name)["StartedAt"] for name in kept} == kept, "what ran was started again"
    daemon.stop_process()
    daemon.start()
    settled(daemon, {**AFTER, "run-no": "running"})
    assert daemon.docker("info", "-f", "{{.LiveRestoreEnabled}}").line == "true"


@pytest.mark.parametrize("is_wiped", [True, False])
def test_after_a_reboot(other: Callable[..., Wherry], is_wiped: bool) -> None:
    """Every process is gone; so is the exec root, or it is another boot's."""
    daemon = other()
    daemon.docker("run", "-d", "--name", "gone", "--rm", "busybox", "sleep", "1000").ok()
    boxes(daemon)
    daemon.crash_everything(wipe=is_wiped)
    if not is_wiped:
        with open(f"{daemon.exec_root}/boot-id", "w") as file:
            file.write("another")
    daemon.start()
    settled(daemon, {**AFTER, "run-no": "exited"})
    state = show(daemon, "run-no")
    assert (state["ExitCode"], state["Error"]) == (255, "")
    assert daemon.docker("ps", "-a", "--filter", "name=run-no", "--format", "{{.Status}}").out.startswith(
        "Exited (255)"
    )
    assert show(daemon, "run-always")["RestartCount"] == 0
    assert daemon.docker("exec", "run-always", "echo", "ok").ok().line == "ok"


def test_after_a_reboot_in_order(other: Callable[..., Wherry]) -> None:
    """A container starts after those it depends on, whatever the order of their creation."""
    daemon = other()
    sleep = ("busybox", "sleep", "1000")
    policy = ("--restart", "always")
    daemon.docker("run", "-d", "--name", "first", *policy, "-v", "/data", *sleep).ok()
    daemon.docker("run", "-d", "--name", "joins", *policy, "--network", "container:first", *sleep).ok()
    daemon.docker("run", "-d", "--name", "linked", *policy, "--link", "first:one", *sleep).ok()
    daemon.docker("run", "-d", "--name", "shares", *policy, "--volumes-from", "linked", *sleep).ok()
    labels = ("--label", "com.docker.compose.project=p", "--label")
    daemon.docker(
        "run",
        "-d",
        "--name",
        "last",
        *policy,
        *labels,
        "com.docker.compose.depends_on=db:service_started:true",
        *sleep,
    ).ok()
    daemon.docker(
        "run",
        "-d",
        "--name",
        "db",
        *policy,
        *labels,
        "com.docker.compose.service=db",
        "--pid",
        "container:shares",
        *sleep,
    ).ok()
    daemon.crash_everything()
    daemon.start()
    until(lambda: set(statuses(daemon).values()) == {"running"}, "all running")
    started = {name: show(daemon, name)["StartedAt"] for name in statuses(daemon)}
    assert started["first"] < started["joins"] and started["first"] < started["linked"] < started["shares"]
    assert started["shares"] < started["db"] < started["last"]


def test_a_restart_due_while_there_is_no_daemon(other: Callable[..., Wherry], flag: Path) -> None:
    daemon = other()
    before = failing(daemon, "box", flag)
    daemon.kill()
    flag.touch()
    daemon.start()
    after = until_status(daemon, "box", "running")
    assert after["RestartCount"] >= before["RestartCount"] and after["StartedAt"] != before["StartedAt"]


def test_an_exit_while_there_is_no_daemon(other: Callable[..., Wherry]) -> None:
    """Its policy is applied by the next one; the exit counts as any other."""
    daemon = other()
    ends = ("busybox", "sh", "-c", "read line; exit 7")
    for policy in ("always", "on-failure:1", "no"):
        daemon.docker("run", "-d", "-i", "--name", policy.partition(":")[0], "--restart", policy, *ends).ok()
    pids = {name: show(daemon, name)["Pid"] for name in statuses(daemon)}
    daemon.kill()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    daemon.start()
    settled(daemon, {"always": "running", "on-failure": "running", "no": "exited"})
    assert show(daemon, "no")["ExitCode"] == 137
    assert show(daemon, "always")["RestartCount"] == show(daemon, "on-failure")["RestartCount"] == 1


def test_without_live_restore(other: Callable[..., Wherry], flag: Path) -> None:
    daemon = other(config={"live-restore": False, "shutdown-timeout": 3})
    assert daemon.docker("info", "-f", "{{.LiveRestoreEnabled}}").line == "false"
    ends = ("busybox", "sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    for policy in ("no", "always", "unless-stopped", "on-failure"):
        daemon.docker("run", "-d", "--name", policy, "--restart", policy, *ends).ok()
        until(lambda policy=policy: daemon.docker("logs", policy).out == "ready\n", "the trap")
    daemon.docker(
        "run",
        "-d",
        "--name",
        "deaf",
        "--restart",
        "on-failure",
        "--stop-timeout",
        "1",
        "busybox",
        "sleep",
        "1000",
    ).ok()
    failing(daemon, "waits", flag)
    daemon.stop_process()
    with open(daemon.log_path) as file:
        assert "stopping containers" in file.read()
    assert len(daemon.processes()) <= 3, "containers go on without the daemon"
    daemon.start()
    settled_but_waits = {
        "no": "exited",
        "always": "running",
        "unless-stopped": "running",
        "on-failure": "exited",
        "deaf": "running",
    }
    until(
        lambda: {k: v for k, v in statuses(daemon).items() if k != "waits"} == settled_but_waits,
        str(settled_but_waits),
    )
    assert statuses(daemon)["waits"] in ("restarting", "running")
    assert show(daemon, "no")["ExitCode"] == 0 and show(daemon, "always")["RestartCount"] == 0


def test_without_live_restore_a_killed_daemon_is_made_up_for(other: Callable[..., Wherry]) -> None:
    daemon = other("--live-restore=false")
    for policy in ("no", "always"):
        daemon.docker(
            "run",
            "-d",
            "--name",
            policy,
            "--stop-timeout",
            "0",
            "--restart",
            policy,
            "busybox",
            "sleep",
            "1000",
        ).ok()
    pid = show(daemon, "always")["Pid"]
    daemon.kill()
    daemon.start()
    settled(daemon, {"no": "exited", "always": "running"})
    assert show(daemon, "always")["Pid"] != pid


def test_policies_in_recorded_json(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "--restart", "on-failure:4", "busybox").ok()
    shown = json.loads(engine.docker("inspect", name).ok().out)[0]
    assert shown["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 4}
    assert shown["RestartCount"] == 0
