"""A daemon with the image busybox, on a machine where everything takes twenty times as long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.docker import rootfs
from tests.docker.engine import Wherry

PATIENCE_S = 300


@contextmanager
def running(name: str, subnet: str, config: object = None) -> Iterator[Wherry]:
    wherry = Wherry(name, subnet, config=config)
    wherry.start(wait=False)
    wherry.wait_ready(PATIENCE_S)
    tar = rootfs.busybox_tar()
    wherry.docker("import", "--change", 'CMD ["sh"]', "-", "busybox", input=tar, timeout_s=PATIENCE_S).ok()
    yield wherry
    wherry.remove()
