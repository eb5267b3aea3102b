"""Real bundles for the stand-alone runtime: a busybox root filesystem, a config.json to change, the command to run."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MARK
from wherry.runtime import example
from wherry.runtime.cgroups import tree

BUSYBOX = shutil.which("busybox") or "/bin/busybox"
APPLETS = (
    "sh cat ls id hostname mount umount ps sleep true false echo touch mkdir mknod grep ip env tty stty stat kill test"
    " readlink head dd wc pwd seq ln rm chmod umask cut tr sed od"
).split()
_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture(scope="session", autouse=True)
def subreaper() -> Iterator[None]:
    """Containers outlive the command that made them: they become ours to reap, as they would be a shim's."""
    if os.geteuid():
        pytest.skip("needs root")
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root filesystem with busybox in it. Read only: bundles get a copy."""
    root = tmp_path_factory.mktemp("image")
    root.chmod(0o755)
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "mnt"):
        (root / name).mkdir()
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    (root / "plain").write_text("not a program\n")
    return root


class Bundle:
    """One container: its bundle, and the command called for it."""

    def __init__(self, directory: Path, image: Path) -> None:
        self.directory = directory
        self.rootfs = directory / "rootfs"
        self.state = directory / "state"
        self.id = f"{MARK}-{secrets.token_hex(4)}"
        shutil.copytree(image, self.rootfs, symlinks=True)
        self.config: dict[str, Any] = example.config()
        self.process: dict[str, Any] = self.config["process"]
        self.linux: dict[str, Any] = self.config["linux"]
        self.process["terminal"] = False
        self.process["noNewPrivileges"] = False
        self.process["rlimits"] = []
        self.config["root"]["readonly"] = False
        self.linux["cgroupsPath"] = f"/{MARK}/{self.id}"
        self.options: tuple[str, ...] = ()
        """Global options of every call."""

    def write(self) -> None:
        (self.directory / "config.json").write_text(json.dumps(self.config))

    def call(
        self, *words: str, code: int | None = 0, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """The command itself; `code`: the exit status it must have."""
        # Files, not pipes: a container has the streams of the command that made it, and keeps a pipe open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                [
                    *prefix,
                    sys.executable,
                    "-m",
                    "wherry.runtime",
                    "--root",
                    str(self.state),
                    *self.options,
                    *words,
                ],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                text=True,
                check=False,
                timeout=60,
            )
            for stream in (out, err):
                stream.seek(0)
            done.stdout, done.stderr = out.read(), err.read()
        if code is not None:
            assert done.returncode == code, (done.stdout, done.stderr)
        return done

    def run(self, *args: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """`run` with these process args."""
        self.process["args"] = list(args)
        self.write()
        return self.call("run", self.id, code=code)

    def output(self, *args: str) -> str:
        """What the process prints."""
        return self.run(*args).stdout

    def refused(self, *args: str) -> str:
        """What the command says when it refuses, nothing being left behind."""
        message = self.run(*(args or ("true",)), code=1).stderr
        assert "Traceback" not in message
        self.assert_nothing_left()
        return message

    def create(self, *args: str) -> int:
        """A created container; its pid."""
        self.process["args"] = list(args)
        self.write()
        self.call("create", self.id)
        return self.shown()["pid"]

    def start(self, *args: str) -> int:
        pid = self.create(*args)
        self.call("start", self.id)
        return pid

    def shown(self) -> dict[str, Any]:
        return json.loads(self.call("state", self.id).stdout)

    def exec(
        self, *words: str, code: int | None = 0, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        return self.call("exec", *options, self.id, *words, code=code)

    def end(self, pid: int) -> int:
        """Kill and reap the container's first process; its wait status."""
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]

    def cgroups(self) -> list[str]:
        """Where cgroups of the container still are."""
        top = Path("/sys/fs/cgroup")
        places = (place / MARK / self.id for place in (top, *filter(Path.is_dir, top.iterdir())))
        return [str(place) for place in places if place.exists()]

    def assert_nothing_left(self) -> None:
        assert self.cgroups() == []
        assert not self.state.exists() or list(self.state.iterdir()) == []


@pytest.fixture
def bundle(tmp_path: Path, image: Path) -> Iterator[Bundle]:
    made = Bundle(tmp_path, image)
    yield made
    print(made.call("delete", "--force", made.id, code=None))  # shown when the test fails
    reap_orphans()
    made.assert_nothing_left()


@pytest.fixture
def make_bundle(tmp_path: Path, image: Path) -> Iterator[Callable[[], Bundle]]:
    made: list[Bundle] = []

    def make() -> Bundle:
        made.append(Bundle(tmp_path / str(len(made)), image))
        return made[-1]

    yield make
    for each in made:
        each.call("delete", "--force", each.id, code=None)
    reap_orphans()


@pytest.fixture(scope="session", autouse=True)
def no_cgroup_left(subreaper: None) -> Iterator[None]:
    yield
    top = Path("/sys/fs/cgroup")
    for place in (top, *filter(Path.is_dir, top.iterdir())):
        tree.remove(str(place / MARK))  # podman leaves its own behind below it


def reap_orphans() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
