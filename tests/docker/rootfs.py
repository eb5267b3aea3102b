"""Images for the tests, made on this machine without any internet."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterable, Sequence

CACHE = os.environ.get("WHERRY_TEST_CACHE", "/var/tmp/wherry-test-cache")

Entry = tuple[str, "bytes | str | None"]
"""A path in a layer, and: its bytes, None for a directory, or "-> target" for a symbolic link."""


def busybox_tar() -> bytes:
    """A root filesystem of Debian's busybox-static and nothing else."""
    with open("/bin/busybox", "rb") as file:
        program = file.read()
    names = subprocess.run(
        ["/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    entries: list[Entry] = [(folder, None) for folder in ("bin", "etc", "home", "root", "tmp", "usr", "var")]
    entries += [("bin/busybox", program)]
    entries += [(f"bin/{name}", "-> busybox") for name in names if name != "busybox"]
    entries += [
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nguest:x:405:100:guest:/home:/bin/sh\n"),
        ("etc/group", b"root:x:0:\nusers:x:100:\nstaff:x:50:guest\n"),
        ("etc/plain-file", b"not a program\n"),
    ]
    return tar(entries)


def tar(entries: Iterable[Entry], *, mode: int = 0o755) -> bytes:
    """A tar with these entries, owned by root, whose bytes depend on nothing but them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in entries:
            info = tarfile.TarInfo(path)
            info.mode = 0o1777 if path == "tmp" else mode
            if path.startswith("etc/") and isinstance(content, bytes):
                info.mode = 0o644
            if content is None:
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content.removeprefix("-> ")
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image_config(layers: Sequence[bytes], **config: object) -> bytes:
    """An image config for these uncompressed layer tars."""
    value = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-02T03:04:05Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], **config},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        "history": [
            {"created": "2024-01-02T03:04:05Z", "created_by": f"layer {n}"} for n, _ in enumerate(layers)
        ],
    }
    return json.dumps(value).encode()


def docker_archive(config: bytes, layers: Sequence[bytes], *tags: str) -> bytes:
    """What `docker save` wrote before OCI layouts: manifest.json, a config, and layer tars."""
    name = hashlib.sha256(config).hexdigest()
    manifest = [
        {
            "Config": f"{name}.json",
            "RepoTags": list(tags),
            "Layers": [f"{n}/layer.tar" for n, _ in enumerate(layers)],
        }
    ]
    return tar(
        [
            (f"{name}.json", config),
            *[(f"{n}/layer.tar", layer) for n, layer in enumerate(layers)],
            ("manifest.json", json.dumps(manifest).encode()),
        ]
    )


MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def descriptor(media_type: str, data: bytes, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def manifest(config: bytes, blobs: Sequence[tuple[str, bytes]]) -> bytes:
    """An OCI manifest of a config and layer blobs (media type, bytes)."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor(kind, data) for kind, data in blobs],
        }
    ).encode()


def gz(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=1, mtime=0)


def zst(data: bytes) -> bytes:
    from backports import zstd

    return zstd.compress(data)


def oci_layout(config: bytes, layers: Sequence[bytes], tag: str) -> bytes:
    """A tar of an OCI image layout with one image."""
    blobs = [(LAYER, layer) for layer in layers]
    top = manifest(config, blobs)
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(MANIFEST, top, annotations={"io.containerd.image.name": tag})],
    }
    return tar(
        [
            ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
            ("index.json", json.dumps(index).encode()),
            *[(f"blobs/sha256/{digest(b)[7:]}", b) for b in (config, top, *layers)],
        ]
    )


def debian_tar() -> str:
    """Path of a tar of Debian bookworm with nginx, redis and python3 in it; made once, then kept in the cache."""
    path = f"{CACHE}/debian-bookworm.tar"
    if os.path.exists(path):
        return path
    os.makedirs(CACHE, exist_ok=True)
    root = f"{CACHE}/debian-root"
    shutil.rmtree(root, ignore_errors=True)
    include = "nginx-light,redis-server,python3,ca-certificates"
    log = f"{CACHE}/debootstrap.log"
    started = time.monotonic()
    with open(log, "wb") as out:
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={include}", "bookworm", root, *debian_mirror()],
            stdout=out,
            stderr=out,
            check=True,
        )
    # What a maintainer script started ran in the chroot; nothing of ours is to go on using it.
    subprocess.run(["rm", "-rf", f"{root}/var/cache/apt/archives", f"{root}/var/lib/apt/lists"], check=True)
    for folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    subprocess.run(
        [
            "tar",
            "-C",
            root,
            "--numeric-owner",
            *(f"--exclude=./{d}/*" for d in ("dev", "proc", "sys")),
            "-cf",
            f"{path}.part",
            ".",
        ],
        check=True,
    )
    os.rename(f"{path}.part", path)
    shutil.rmtree(root, ignore_errors=True)
    print(f"debootstrap took {time.monotonic() - started:.0f} s")
    return path


def debian_mirror() -> list[str]:
    """The mirror this machine's own apt uses, if it says so: the tests need no other server."""
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", "Codename: bookworm"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    return found[:1]
