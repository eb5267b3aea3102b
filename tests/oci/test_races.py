"""Somebody in a container that shares a volume with ours swaps names while ours is made (CVE-2021-30465 and kin)."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.conftest import Bundle
from tests.oci.test_api import Make, ended, make
from wherry.runtime.lifecycle import StartFailed

__all__ = ["make"]  # a fixture

_RENAME_EXCHANGE = 2
ROUNDS = 25


def exchange_forever(first: str, second: str) -> None:
    libc = ctypes.CDLL(None)
    names = os.fsencode(first), os.fsencode(second)
    while True:
        libc.renameat2(-100, names[0], -100, names[1], _RENAME_EXCHANGE)


@pytest.fixture
def volume(bundle: Bundle) -> Iterator[Path]:
    """A volume in which `place` is a directory at one moment and a symlink to the host's canary at the next."""
    volume = bundle.directory / "volume"
    canary = bundle.directory / "canary"
    (volume / "place/inner").mkdir(parents=True)
    (canary / "inner").mkdir(parents=True)
    (volume / "other").symlink_to("/.." * 20 + str(canary))
    arguments = (str(volume / "place"), str(volume / "other"))
    swapper = multiprocessing.get_context("fork").Process(target=exchange_forever, args=arguments)
    swapper.start()
    yield volume
    swapper.kill()
    swapper.join()
    assert sorted(str(path.relative_to(canary)) for path in canary.rglob("*")) == ["inner"]
    assert str(canary) not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize(
    ("target", "kind"),
    [("/volume/place", "tmpfs"), ("/volume/place/inner", "tmpfs"), ("/volume/place/new", "bind")],
)
def test_mount_targets_never_lead_outside(
    make: Make, bundle: Bundle, volume: Path, target: str, kind: str
) -> None:
    given = bundle.directory / "given"
    given.mkdir()
    (given / "mine").write_text("")
    bundle.config["mounts"] += [
        {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["bind"]},
        {
            "destination": target,
            "type": kind,
            "source": str(given),
            "options": ["bind"] if kind == "bind" else [],
        },
    ]
    made = 0
    for _ in range(ROUNDS):
        try:
            container = make("true")
        except StartFailed:
            continue  # the name was gone just then: that is an answer too
        # Whatever was mounted lies inside of the container's own root.
        for line in Path(f"/proc/{container.init.pid}/mountinfo").read_text().splitlines():
            assert line.split()[4].startswith("/")
        made += 1
        container.signal(signal.SIGKILL)
        ended(container)
        container.destroy()
    assert made
