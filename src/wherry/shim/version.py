"""The version of the code that runs beside containers: the release, and a digest of the files themselves.

A daemon goes on with a launcher that runs the very same code, and starts its own otherwise.
"""

from __future__ import annotations

import hashlib
import os

_PACKAGES = ("linux", "logs", "runtime", "runtime/cgroups", "shim")
_NOT_BESIDE_CONTAINERS = frozenset({"client.py", "__main__.py"})


def code_version() -> str:
    """For example `1f0c5a…`: the same for the same files."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for name in sorted(os.listdir(f"{root}/{package}")):
            if name.endswith(".py") and name not in _NOT_BESIDE_CONTAINERS:
                with open(f"{root}/{package}/{name}", "rb") as file:
                    digest.update(f"{package}/{name}\0".encode() + file.read())
    return digest.hexdigest()[:16]
