"""An image for the examples: a root filesystem with nothing in it but Debian's busybox-static."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile

PROGRAM = "/bin/busybox"


def make_tar() -> str:
    """The path of a tar; the caller deletes it. Raises FileNotFoundError where busybox-static is not installed."""
    names = subprocess.run([PROGRAM, "--list"], capture_output=True, text=True, check=True).stdout.split()
    descriptor, path = tempfile.mkstemp(suffix=".tar")
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for folder in ("bin", "etc", "root", "tmp"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(info)
        archive.add(PROGRAM, "bin/busybox")
        for name in names:
            if name != "busybox":  # `busybox --list` names itself, too
                info = tarfile.TarInfo(f"bin/{name}")
                info.type, info.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(info)
        passwd = b"root:x:0:0:root:/root:/bin/sh\n"
        info = tarfile.TarInfo("etc/passwd")
        info.size = len(passwd)
        archive.addfile(info, io.BytesIO(passwd))
    return path
