"""wherryd itself: its options, its configuration file, several at once, and the drivers that can be chosen."""

from __future__ import annotations

import grp
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.docker import rootfs
from tests.docker.engine import ROOT, Engine, Wherry

Other = Callable[..., Wherry]


def wherryd(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wherry.daemon", *argv],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
        check=False,
    )


CONFIGS: dict[str, tuple[str, str]] = {
    "trailing-comma": (
        '{"debug": true,}',
        "invalid character '}' looking for beginning of object key string",
    ),
    "comment": (
        '{\n  // why\n  "debug": true\n}',
        "invalid character '/' looking for beginning of object key string",
    ),
    "not-closed": ('{"debug": true', "unexpected end of JSON input"),
    "unknown-key": ('{"foo": 1}', "the following directives don't match any configuration option: foo"),
    "wrong-type": ('{"debug": "yes"}', "debug"),
    "no-object": ("[]", "cannot unmarshal array"),
    "bad-log-level": ('{"log-level": "loud"}', "loud"),
    "bad-mirror": ('{"registry-mirrors": ["not a url"]}', "not a url"),
}


@pytest.mark.parametrize("flaw", CONFIGS)
def test_a_bad_file_is_refused_with_its_reason(tmp_path: object, flaw: str) -> None:
    text, wanted = CONFIGS[flaw]
    path = f"{tmp_path}/daemon.json"
    with open(path, "w") as file:
        file.write(text)
    done = wherryd("--validate", "--config-file", path)
    assert done.returncode == 1 and wanted in done.stderr, done
    assert "Traceback" not in done.stderr
    if "character" in wanted or "directives" in wanted:
        assert f"unable to configure the Docker daemon with file {path}: " in done.stderr


@pytest.mark.parametrize(
    "text", ["{}", '{"debug": true, "log-level": "debug", "registry-mirrors": ["https://m.example"]}']
)
def test_a_good_file_is_ok(tmp_path: object, text: str) -> None:
    path = f"{tmp_path}/daemon.json"
    with open(path, "w") as file:
        file.write(text)
    done = wherryd("--validate", "--config-file", path)
    assert (done.returncode, (done.stdout + done.stderr).strip()) == (0, "configuration OK"), done


def test_a_file_that_was_named_must_be_there(tmp_path: object) -> None:
    done = wherryd("--validate", "--config-file", f"{tmp_path}/missing.json")
    assert done.returncode == 1 and "no such file" in done.stderr


def test_flag_and_file_must_not_both_say_it(tmp_path: object) -> None:
    path = f"{tmp_path}/daemon.json"
    with open(path, "w") as file:
        file.write('{"data-root": "/x"}')
    done = wherryd("--validate", "--config-file", path, "--data-root", "/y")
    assert done.returncode == 1
    wanted = "the following directives are specified both as a flag and in the configuration file: data-root: (from flag: /y, from file: /x)"
    assert wanted in done.stderr


@pytest.mark.parametrize("argv", [["--nosuch"], ["-H", "what://x"], ["extra"]])
def test_bad_flags_are_refused(tmp_path: object, argv: list[str]) -> None:
    done = wherryd("--data-root", f"{tmp_path}/data", "--exec-root", f"{tmp_path}/run", *argv)
    assert done.returncode != 0 and done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "flags",
    [["--storage-driver", "devicemapper"], ["--log-driver", "nosuch"], ["--default-runtime", "nosuch"]],
)
def test_a_driver_that_is_not_there_ends_the_start(other: Other, flags: list[str]) -> None:
    daemon = other(*flags, start=False)
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 1
    assert flags[1] in daemon.log_tail() and "Traceback" not in daemon.log_tail()


def test_info_shows_the_configuration(other: Other) -> None:
    daemon = other(
        "-D", "--log-level", "debug", "--registry-mirror", "https://mirror.example", "--insecure-registry", "10.9.0.0/16",
        image=False,
    )  # fmt: skip
    info = daemon.api("GET", "/info").json
    assert info["Debug"] is True
    assert info["RegistryConfig"]["Mirrors"] == ["https://mirror.example/"]
    assert "10.9.0.0/16" in info["RegistryConfig"]["InsecureRegistryCIDRs"]
    assert info["DockerRootDir"] == daemon.data_root
    assert "Mirrors" in daemon.docker("info").ok().out


def test_the_socket_is_for_root_and_its_group(other: Other) -> None:
    daemon = other("--group", "daemon", image=False)
    found = os.stat(daemon.socket_path)
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert (found.st_uid, found.st_gid) == (0, grp.getgrnam("daemon").gr_gid)


def test_more_than_one_host(other: Other, tmp_path: object) -> None:
    daemon = other("-H", f"unix://{tmp_path}/second.sock", "-H", f"unix://{tmp_path}/third.sock", image=False)
    for path in ("second", "third"):
        assert daemon.docker("-H", f"unix://{tmp_path}/{path}.sock", "version").ok()


def test_pidfile(other: Other) -> None:
    daemon = other(image=False)
    assert daemon.process is not None
    assert int(open(f"{daemon.exec_root}/docker.pid").read()) == daemon.process.pid


def test_two_daemons_side_by_side(engine: Engine, other: Other, name: str) -> None:
    daemon = other()
    daemon.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    assert (
        engine.docker("inspect", "-f", "{{.Id}}", name).out
        != daemon.docker("inspect", "-f", "{{.Id}}", name).out
    )
    form = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}"
    assert engine.docker("inspect", "-f", form, name).out != daemon.docker("inspect", "-f", form, name).out
    daemon.docker("rm", "-f", name).ok()
    assert engine.docker("inspect", "-f", "{{.State.Running}}", name).ok().line == "true"


def test_one_engine_per_data_root(wherry: Wherry) -> None:
    argv = list(wherry.argv[3:])
    argv[argv.index("-H") + 1] = f"unix://{wherry.exec_root}/other.sock"
    argv[argv.index("--exec-root") + 1] = f"{wherry.exec_root}/other"
    argv[argv.index("--pidfile") + 1] = f"{wherry.exec_root}/other.pid"
    done = wherryd(*argv)
    assert done.returncode == 1
    assert wherry.data_root in done.stderr and "Traceback" not in done.stderr
    wherry.api("GET", "/_ping").expect(200)


@pytest.mark.parametrize("driver", ["vfs", "overlay2"])
def test_storage_drivers(other: Other, driver: str) -> None:
    daemon = other("--storage-driver", driver)
    assert daemon.docker("info", "-f", "{{.Driver}}").ok().line == driver
    layers = [
        rootfs.busybox_tar(),
        rootfs.tar([("d", None), ("d/a", b"1"), ("d/b", b"2")]),
        rootfs.tar([("d/.wh.a", b"")]),
    ]
    archive = rootfs.docker_archive(rootfs.image_config(layers), layers, "layered:1")
    daemon.docker("load", input=archive).ok()
    daemon.docker("run", "--name", "one", "layered:1", "sh", "-c", "ls /d; echo x >/d/c; rm /d/b").ok()
    assert daemon.docker("run", "--rm", "layered:1", "ls", "/d").ok().out == "b\n"
    assert daemon.docker("start", "-a", "one").out == "c\n"
    daemon.docker("rm", "one").ok()
    daemon.docker("rmi", "layered:1").ok()


def test_a_storage_driver_sees_only_its_own(other: Other) -> None:
    daemon = other("--storage-driver", "vfs")
    daemon.docker("create", "--name", "one", "busybox").ok()
    for driver, images in (("overlay2", ""), ("vfs", "busybox\n")):
        daemon.stop_process()
        daemon.argv[daemon.argv.index("--storage-driver") + 1] = driver
        daemon.start()
        assert daemon.docker("images", "--format", "{{.Repository}}").ok().out == images
        assert daemon.docker("ps", "-a", "--format", "{{.Names}}").ok().out == ("one\n" if images else "")


@pytest.mark.parametrize("runtime", ["runc", "wherry"])
def test_runtimes(other: Other, name: str, runtime: str) -> None:
    if runtime == "runc" and shutil.which("runc") is None:
        pytest.skip("no runc on PATH")
    daemon = other()
    assert runtime in daemon.docker("info", "-f", "{{json .Runtimes}}").ok().out
    ran = daemon.docker("run", "-i", "--runtime", runtime, "--name", name, "-m", "32m", "-u", "guest", "-h", "box", "busybox", "sh", "-c",
                        "cat; id -u; hostname; exit 4", input="in\n")  # fmt: skip
    assert (ran.out, ran.code) == ("in\n405\nbox\n", 4), ran
    assert daemon.docker("inspect", "-f", "{{.HostConfig.Runtime}}", name).ok().line == runtime
    daemon.docker("run", "-d", "--runtime", runtime, "--name", f"{name}-2", "busybox", "sleep", "300").ok()
    assert daemon.docker("exec", f"{name}-2", "hostname").ok().out
    daemon.docker("exec", f"{name}-2", "sh", "-c", "exit 3").failed(3)
    assert daemon.docker("exec", f"{name}-2", "nosuch").code in (126, 127)
    daemon.docker("stop", "-t", "0", f"{name}-2").ok()
    daemon.docker("run", "--rm", "--runtime", runtime, "busybox", "nosuch").failed(127)


def test_added_and_default_runtimes(other: Other, tmp_path: object) -> None:
    runc = shutil.which("runc") or pytest.skip("no runc on PATH")
    daemon = other("--add-runtime", f"mine={runc}", "--default-runtime", "mine")
    assert daemon.docker("run", "--rm", "busybox", "echo", "ok").ok().line == "ok"
    assert daemon.docker("info", "-f", "{{.DefaultRuntime}}").ok().line == "mine"


def test_log_driver_and_options_by_default(other: Other, name: str) -> None:
    daemon = other("--log-driver", "json-file", "--log-opt", "max-size=10k", "--log-opt", "max-file=2")
    daemon.docker(
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done",
    ).ok()
    shown = json.loads(daemon.docker("inspect", "-f", "{{json .HostConfig.LogConfig}}", name).ok().out)
    assert shown == {"Type": "json-file", "Config": {"max-size": "10k", "max-file": "2"}}
    out = daemon.docker("logs", name).ok().out.splitlines()
    assert out[-1] == "line 1999" and len(out) < 1000


def test_a_mirror_is_asked_first(other: Other, registry: object, proxy: object) -> None:
    layers = [rootfs.busybox_tar(), rootfs.tar([("mirrored", b"1")])]
    registry.put_image("library/mirrored", "latest", layers)  # type: ignore[attr-defined]
    daemon = other("--registry-mirror", f"http://{proxy.address}", image=False)  # type: ignore[attr-defined]
    out = daemon.docker("pull", "mirrored").ok().out
    assert "Status: Downloaded newer image for mirrored:latest" in out
    assert any("/v2/library/mirrored/" in path for path, _ in proxy.seen)  # type: ignore[attr-defined]
    assert daemon.docker("run", "--rm", "mirrored", "cat", "/mirrored").ok().out == "1"


def test_sigterm_leaves_containers_running(other: Other, name: str) -> None:
    daemon = other()
    daemon.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    pid = daemon.docker("inspect", "-f", "{{.State.Pid}}", name).ok().line
    daemon.stop_process()
    assert os.path.exists(f"/proc/{pid}")
    daemon.start()
    assert daemon.docker("inspect", "-f", "{{.State.Pid}}", name).ok().line == pid
    assert daemon.docker("exec", name, "echo", "ok").ok().line == "ok"


def test_a_machine_that_was_switched_off(other: Other, name: str) -> None:
    """All of /run is gone, and the pids of before are others' now: what ran is exited, what was kept is there."""
    daemon = other()
    daemon.docker("run", "-d", "--name", name, "busybox", "sleep", "300").ok()
    daemon.docker("create", "--name", f"{name}-2", "busybox").ok()
    daemon.docker("stop", "-t", "0", name).ok()
    daemon.docker("start", name).ok()
    daemon.crash_everything()
    daemon.start()
    state = daemon.api("GET", f"/containers/{name}/json").json["State"]
    assert state["Status"] == "exited" and state["Pid"] == 0 and state["ExitCode"] != 0
    assert daemon.docker("start", name).ok()
    assert daemon.docker("start", "-a", f"{name}-2").ok()
