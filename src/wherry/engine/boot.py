"""Which boot of the machine an exec root is of.

On a tmpfs, as /run is, the exec root is empty after a boot. Where it lies on a disk its records would name processes
of the last boot, whose numbers others have by now.
"""

from __future__ import annotations

import os
import shutil

from wherry.shim import records

BOOT_ID = "/proc/sys/kernel/random/boot_id"
NAME = "boot-id"


def begin_boot(exec_root: str, *, boot_id: str = "") -> None:
    """Mark `exec_root` as this boot's. What is left of another boot goes, but for how containers ended."""
    if not boot_id:
        with open(BOOT_ID) as file:
            boot_id = file.read().strip()
    path = os.path.join(exec_root, NAME)
    try:
        with open(path) as file:
            before = file.read().strip()
    except FileNotFoundError:
        before = boot_id
    if before != boot_id:
        _forget(os.path.join(exec_root, "containers"))
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as file:
        file.write(boot_id + "\n")
    os.rename(temporary, path)


def _forget(containers: str) -> None:
    for entry in os.scandir(containers):
        if not entry.is_dir(follow_symlinks=False):
            continue
        end = records.find(entry.path, records.EXIT)
        shutil.rmtree(entry.path)
        if end is not None:
            os.mkdir(entry.path, 0o711)
            records.write(entry.path, records.EXIT, end)
