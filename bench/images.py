"""`docker load` and `docker pull` of an image of 300 MB, made of this machine's own files.

Each round has a new ext4 and a new daemon: ext4 does not use an inode again for minutes after its deletion, and looks
for others one by one, so whoever unpacks where something was deleted before pays for that, and not for unpacking.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import os
import stat
import subprocess
import tarfile
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping

from tests.docker import rootfs
from tests.docker.registry import Registry

from bench import room
from bench.engines import Daemon, Missing
from bench.rows import LEAST, Goal, Row, timed

LAYERS = (180_000_000, 90_000_000, 30_000_000)
"""Bytes of each layer's tar."""


def rows(makers: Mapping[str, Callable[..., Daemon]], rounds: int, deadline: float) -> list[Row]:
    makers = {name: make for name, make in makers.items() if _is_there(make)}
    layers = make_layers()
    archive = f"{room.base_folder()}/image.tar"
    with open(archive, "wb") as file:
        file.write(rootfs.docker_archive(rootfs.image_config(layers), layers, "bench/loaded:1"))
    registry = Registry("wherry-bench")
    try:
        reference = f"{registry.address}/bench/pulled:1"
        # Other layers than the loaded one's, or the second of the two would find them there.
        others = [_salted(layer) for layer in layers]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            packed = dict(zip(map(rootfs.digest, others), pool.map(gzip, others), strict=True))
        registry.put_image("bench/pulled", "1", others, pack=lambda layer: packed[rootfs.digest(layer)])
        commands = {"load": ("load", "-q", "-i", archive), "pull": ("pull", "-q", reference)}
        samples = _sample(makers, commands, rounds, deadline)
    finally:
        registry.stop()
        os.unlink(archive)
    size = f"{sum(map(len, layers)) / 1e6:.0f} MB, {len(layers)} layers"
    return [
        Row("load", f"docker load ({size})", "ms", samples["load"], Goal(ratio=1)),
        Row("pull", f"docker pull ({size}, gzip, local registry)", "ms", samples["pull"], Goal(ratio=1)),
    ]


def _is_there(make: Callable[..., Daemon]) -> bool:
    try:
        make()
    except Missing:
        return False
    return True


def _sample(
    makers: Mapping[str, Callable[..., Daemon]],
    commands: Mapping[str, tuple[str, ...]],
    rounds: int,
    deadline: float,
) -> dict[str, dict[str, list[float]]]:
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in commands}
    engines, steps = list(makers), list(commands)
    for number in range(rounds):
        if time.monotonic() > deadline and number >= LEAST:
            break
        for engine in engines if number % 2 else engines[::-1]:
            with fresh_filesystem(f"{engine}-{number}") as base:
                daemon = makers[engine](base=base)
                daemon.start_empty()
                try:
                    for step in steps if number // 2 % 2 else steps[::-1]:
                        subprocess.run(
                            ["sync", "-f", base], check=True
                        )  # what was written before is not this step's
                        took = timed(lambda daemon=daemon, step=step: daemon.docker(*commands[step]))
                        samples[step].setdefault(engine, []).append(took)
                finally:
                    daemon.remove()
    return samples


@contextlib.contextmanager
def fresh_filesystem(name: str, gib: int = 4) -> Generator[str]:
    """A new ext4 in a file."""
    image, point = f"{room.base_folder()}/{name}.ext4", f"{room.base_folder()}/{name}"
    os.mkdir(point)
    with open(image, "wb") as file:
        file.truncate(gib << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", point], check=False)
        os.unlink(image)
        os.rmdir(point)


def make_layers() -> list[bytes]:
    """Layer tars with the files of /usr, as a distribution has them: many small ones, some large."""
    layers: list[bytes] = []
    files = _walk("/usr")
    for number, size in enumerate(LAYERS):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
            while out.tell() < size and (path := next(files, None)):
                info = archive.gettarinfo(path, arcname=f"layer{number}{path}")
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                if info.islnk():  # its first name may be in another layer
                    info.type, info.size = tarfile.REGTYPE, os.stat(path).st_size
                if info.isreg():
                    with open(path, "rb") as file:
                        archive.addfile(info, file)
                else:
                    archive.addfile(info)
        layers.append(out.getvalue())
    return layers


def _walk(top: str) -> Iterator[str]:
    """Folders, files and symbolic links, a folder before what is in it; no file above 20 MB, nothing else."""
    for folder, folders, names in os.walk(top):
        folders.sort()
        yield folder
        for name in sorted(names):
            path = f"{folder}/{name}"
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_size < 20_000_000):
                yield path


def _salted(layer: bytes) -> bytes:
    """The layer with one more small file before it, so that its digest is another."""
    head = io.BytesIO()
    with tarfile.open(fileobj=head, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("salt"), io.BytesIO())
    return head.getvalue()[:512] + layer


def gzip(data: bytes) -> bytes:
    """As `docker push` packs: zlib's default level."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()
