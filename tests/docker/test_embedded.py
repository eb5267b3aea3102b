"""`from wherry import Engine`: the examples run, and one engine at a time has a data root, whichever came first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import MARK
from tests.docker import rootfs
from tests.docker.engine import ROOT, Wherry


@pytest.fixture
def root() -> Iterator[str]:
    """A data root, and the names that go with it; what an embedded engine keeps for its next start is taken away."""
    if os.environ.get("WHERRY_TEST_HOST"):
        pytest.skip("about wherry itself")
    daemon = Wherry(f"{MARK}e0", "198.19.254.1/24")
    yield daemon.data_root
    daemon.process = None
    daemon.remove()


def python(script: str, root: str, *, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run `script` with the variables it needs to open an engine on `root`."""
    name = os.path.basename(root)
    settings = (
        f"ROOT = {root!r}; SETTINGS = dict(run_root='/run/{name}', bridge='{name}', bip='198.19.254.1/24')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", settings + script],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"},
        check=False,
    )


WORK = """
import sys
from wherry import Engine
from tests.docker import rootfs

open(ROOT + "/busybox.tar", "wb").write(rootfs.busybox_tar())
with Engine(root=ROOT, **SETTINGS) as engine:
    engine.import_image(ROOT + "/busybox.tar", "busybox", changes=['CMD ["sh"]'])
    done = engine.run("busybox", ["sh", "-c", "cat; echo err >&2; exit 3"], input=b"typed")
    print(done.exit_code, done.stdout, done.stderr)
    kept = engine.start("busybox", ["sleep", "300"], name="kept")
    print(engine.exec("kept", ["hostname"]).stdout.decode().strip() == kept[:12])
"""


def test_run_exec_and_what_stays(root: str) -> None:
    done = python(WORK, root)
    assert (done.returncode, done.stdout) == (0, "3 b'typed' b'err\\n'\nTrue\n"), done.stderr
    again = python(
        "from wherry import Engine\n"
        "with Engine(root=ROOT, **SETTINGS) as engine:\n"
        "    print([c.names for c in engine.containers()], engine.inspect('kept').state.status)\n"
        "    engine.remove('kept', force=True)\n",
        root,
    )
    assert (again.returncode, again.stdout) == (0, "[['/kept']] running\n"), again.stderr


def test_errors_are_exceptions(root: str) -> None:
    script = """
from wherry import Engine
from wherry.errors import NotFound
with Engine(root=ROOT, **SETTINGS) as engine:
    for call in (lambda: engine.run("nosuch", ["true"], pull=False), lambda: engine.wait("nosuch")):
        try:
            call()
        except NotFound as error:
            print(error)
"""
    done = python(script, root)
    assert done.stdout == "No such image: nosuch:latest\nNo such container: nosuch\n", done.stderr


def test_a_library_does_not_open_what_a_daemon_has(other: Callable[..., Wherry]) -> None:
    daemon = other(image=False)
    script = """
from wherry import Engine
from wherry.errors import WherryError
try:
    Engine(root=ROOT, **SETTINGS).__enter__()
except WherryError as error:
    print(type(error).__name__, error)
"""
    done = python(script, daemon.data_root)
    assert done.stdout.startswith("Conflict ") and daemon.data_root in done.stdout, done
    daemon.api("GET", "/_ping").expect(200)


def test_a_daemon_does_not_open_what_a_library_has(other: Callable[..., Wherry]) -> None:
    daemon = other(start=False)
    name = os.path.basename(daemon.data_root)
    script = (
        "import sys\nfrom wherry import Engine\n"
        f"with Engine(root={daemon.data_root!r}, run_root='/run/{name}', bridge={name!r}, bip='198.19.253.1/24'):\n"
        "    print('open', flush=True)\n    sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as library:
        assert library.stdin is not None and library.stdout is not None
        assert library.stdout.readline() == b"open\n"
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(20) == 1
        assert daemon.data_root in daemon.log_tail() and "Traceback" not in daemon.log_tail()
        library.stdin.close()
        assert library.wait(20) == 0
    daemon.start()
    daemon.docker("import", "-", "busybox", input=rootfs.busybox_tar()).ok()


@pytest.mark.parametrize("example", ["plain", "in_asyncio"])
def test_examples_run(example: str) -> None:
    """At the machine's default bridge, in namespaces of their own: everything ends with them."""
    if os.environ.get("WHERRY_TEST_HOST"):
        pytest.skip("about wherry itself")
    script = f"mount -t tmpfs none /run; ip link set lo up; {sys.executable} {ROOT}/examples/{example}.py"
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            script,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("100000" if example == "plain" else "exit code 0") in done.stdout
