"""What a test of the engine is given: a daemon with the image `busybox`, registries, names that nobody else uses.

WHERRY_TEST_HOST=unix:///…  runs the suite on an engine that is already there, dockerd for instance.
WHERRY_TEST_SCALE=0.1       makes the long tests shorter (1 is the full length).
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import MARK
from tests.docker import rootfs
from tests.docker.engine import Client, Engine, Wherry
from tests.docker.registry import HTPASSWD, FaultyProxy, Registry

SCALE = float(os.environ.get("WHERRY_TEST_SCALE", "1"))
_subnets = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            if os.geteuid() != 0:
                item.add_marker(
                    pytest.mark.skip(reason="needs root: it makes namespaces, mounts and interfaces")
                )
            elif shutil.which("docker") is None:
                item.add_marker(pytest.mark.skip(reason="no docker client on PATH"))


def make_wherry(*flags: str, config: object = None) -> Wherry:
    """A daemon of its own, not started."""
    number = next(_subnets)
    name = f"{MARK}{number:02d}"
    # 198.18.0.0/15 is set aside for tests of network devices: no machine's own network is there.
    return Wherry(name, f"198.18.{(os.getpid() + number) % 250}.1/24", *flags, config=config)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """The daemon that most tests share."""
    host = os.environ.get("WHERRY_TEST_HOST")
    engine = Engine(host) if host else make_wherry()
    if isinstance(engine, Wherry):
        engine.start()
    if engine.docker("image", "inspect", "busybox").code != 0:
        engine.docker("import", "--change", 'CMD ["sh"]', "-", "busybox", input=rootfs.busybox_tar()).ok()
    yield engine
    if isinstance(engine, Wherry):
        engine.remove()


@pytest.fixture(scope="session")
def wherry(engine: Engine) -> Engine:
    """The same, for what is ours alone: skips where the suite runs on another engine."""
    if not engine.is_wherry:
        pytest.skip("about wherry itself")
    return engine


@pytest.fixture(autouse=True)
def alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that kills the shared daemon and fails before it starts the next one fails alone."""
    shared = request.getfixturevalue("engine") if "engine" in request.fixturenames else None
    yield
    if isinstance(shared, Wherry) and shared.process is not None and shared.process.poll() is not None:
        shared.start()


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Iterator[Callable[..., Wherry]]:
    """Makes further daemons, with the image busybox where asked; they are removed when the test ends."""
    if os.environ.get("WHERRY_TEST_HOST"):
        pytest.skip("starts daemons of its own")
    made: list[Wherry] = []

    def make(*flags: str, config: object = None, start: bool = True, image: bool = True) -> Wherry:
        daemon = make_wherry(*flags, config=config)
        made.append(daemon)
        if start:
            daemon.start()
            if image:
                daemon.docker(
                    "import", "--change", 'CMD ["sh"]', "-", "busybox", input=rootfs.busybox_tar()
                ).ok()
        return daemon

    yield make
    for daemon in made:
        daemon.remove()


@pytest.fixture
def name(request: pytest.FixtureRequest, engine: Engine) -> Iterator[str]:
    """A name for one test's container (and the start of names for more); all of that name are removed after it."""
    base = f"{MARK}-{re.sub('[^a-z0-9]+', '-', request.node.name.lower())[:40].strip('-')}"
    yield base
    ids = engine.docker("ps", "-aq", "--filter", f"name=^/?{base}").out.split()
    if ids:
        engine.docker("rm", "-f", "-v", *ids)


@pytest.fixture
def clean(engine: Engine) -> Iterator[None]:
    """Remove every container and image that the test adds."""
    containers = set(engine.docker("ps", "-aq", "--no-trunc").out.split())
    images = set(engine.docker("images", "-q", "--no-trunc").out.split())
    yield
    added = set(engine.docker("ps", "-aq", "--no-trunc").out.split()) - containers
    if added:
        engine.docker("rm", "-f", "-v", *added)
    for image in set(engine.docker("images", "-q", "--no-trunc").out.split()) - images:
        engine.docker("rmi", "-f", image)


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry on PATH")
    registry = Registry(MARK)
    yield registry
    registry.stop()


@pytest.fixture(scope="session")
def locked_registry() -> Iterator[Registry]:
    """One that wants registry.USER."""
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry on PATH")
    registry = Registry(MARK, htpasswd=HTPASSWD)
    yield registry
    registry.stop()


@pytest.fixture
def proxy(registry: Registry) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(registry)
    yield proxy
    proxy.stop()


@pytest.fixture(scope="session")
def debian(engine: Engine) -> Iterator[str]:
    """The name of an image of Debian bookworm with nginx, redis and python3."""
    if shutil.which("debootstrap") is None:
        pytest.skip("no debootstrap on PATH")
    with open(rootfs.debian_tar(), "rb") as file:
        done = subprocess.run(
            [*engine.command, "import", "-", f"{MARK}/debian"],
            stdin=file,
            env=engine.environment(),
            capture_output=True,
            timeout=180,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    yield f"{MARK}/debian"
    engine.docker("rmi", "-f", f"{MARK}/debian")


@pytest.fixture(scope="session")
def cli(wherry: Engine) -> Client:
    """wherry's own command line on the same daemon."""
    return Client(wherry.socket_path, [sys.executable, "-m", "wherry.cli"])
