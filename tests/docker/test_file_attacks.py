"""Containers and archives that try to have `docker cp` read or write the host's files: one test a class of attack.

CVE-2018-15664 symlink races, CVE-2019-14271 and CVE-2026-41567 code of the container run by the copier,
CVE-2021-41089 modes of host files changed, CVE-2026-42306 mount points swapped; and hostile archives.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.conftest import SCALE
from tests.docker.engine import Engine, Wherry
from tests.docker.test_files import TAR, get, names, put, run, stopped, tar_of

SECRET = b"the host's own secret"


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host whose path leads nowhere in a container, with a file that must stay as it is."""
    file = tmp_path / "secret"
    file.write_bytes(SECRET)
    file.chmod(0o600)
    before = file.stat()
    yield tmp_path
    after = file.stat()
    assert file.read_bytes() == SECRET
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
    )
    assert sorted(os.listdir(tmp_path)) == ["secret"]


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_symlinks_lead_inside(engine: Engine, name: str, canary: Path, state: str) -> None:
    up = "../" * 20
    (run if state == "running" else stopped)(
        engine,
        name,
        f"mkdir /l; ln -s {canary} /l/abs; ln -s {up}{canary} /l/rel; ln -s {canary}/secret /l/file;"
        f"ln -s {up} /l/top; ln -s /proc/1/root /l/magic; ln -s /l/abs /l/chain",
    )
    for path in (
        "/l/abs/secret", "/l/rel/secret", "/l/file/", f"/l/top{canary}/secret", f"/l/magic{canary}/secret",
        "/l/chain/secret", f"{up}{canary}/secret", str(canary / "secret"),
    ):  # fmt: skip
        answer = get(engine, name, path)
        assert SECRET not in answer.body and answer.status != 200, path
    assert SECRET not in get(engine, name, "/l").body
    for path in ("/l/abs", "/l/rel", f"/l/top{canary}", "/l/chain", str(canary)):
        assert put(engine, name, path, tar_of(("secret", b"overwritten"))).status != 200, path


def test_an_archive_whose_own_links_lead_out(engine: Engine, name: str, canary: Path) -> None:
    """The link is made, and what is put through it lands in the container, or nowhere."""
    run(engine, name, f"mkdir -p {canary}")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for link, target in (("abs", str(canary)), ("rel", "../" * 20 + str(canary))):
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
            inside = tarfile.TarInfo(f"{link}/secret")
            inside.size = 4
            archive.addfile(inside, io.BytesIO(b"evil"))
    put(engine, name, "/tmp", out.getvalue())


@pytest.mark.parametrize("member", ["../../../../secret", "/../../secret", "a/../../../../../secret"])
def test_names_that_lead_out(engine: Engine, name: str, canary: Path, member: str) -> None:
    run(engine, name, "true")
    answer = put(engine, name, "/tmp", tar_of((member, b"evil")))
    assert answer.status in (400, 500) and "is outside of" in answer.message


def test_hard_links_that_lead_out(engine: Engine, name: str, canary: Path) -> None:
    run(engine, name, "ln -s / /tmp/top")
    for target in (str(canary / "secret"), "../" * 20 + str(canary / "secret"), f"top{canary}/secret"):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            info = tarfile.TarInfo("stolen")
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
        assert put(engine, name, "/tmp", out.getvalue()).status in (400, 500), target


def read(engine: Engine, container: str, path: str) -> tuple[int, bytes]:
    """Status and body of a download. What goes away while it is sent cuts it off: then what came."""
    answer = engine.stream("GET", f"/containers/{container}/archive", path=path)
    try:
        return answer.status, answer.read()
    except http.client.IncompleteRead as exc:
        return 0, exc.partial


def racing(engine: Engine, name: str, script: str, *flags: str) -> None:
    """A container in which the script goes on and on."""
    engine.docker("run", "-d", "--name", name, *flags, "busybox", "sh", "-c", f"{script} 2>/dev/null").ok()


def test_a_container_that_swaps_directory_and_symlink(engine: Engine, name: str, canary: Path) -> None:
    """CVE-2018-15664 and CVE-2021-41089: copies both ways while a directory turns into a link to the host's."""
    racing(
        engine,
        name,
        f"mkdir -p /x/d; echo innocent >/x/d/secret; chmod 644 /x/d/secret;"
        f"while :; do mv /x/d /x/old; ln -s {canary} /x/d; rm /x/d; mv /x/old /x/d; done",
    )
    deadline = time.monotonic() + max(1.0, 4 * SCALE)
    successes = [0, 0]
    problems: list[str] = []

    def download() -> None:
        while time.monotonic() < deadline and not problems:
            status, body = read(engine, name, "/x/d/secret")
            if status == 200:
                successes[0] += 1
            if SECRET in body:
                problems.append("the host's file was read")

    def write() -> None:
        while time.monotonic() < deadline and not problems:
            if put(engine, name, "/x/d", tar_of(("secret", b"overwritten"), mode=0o777)).status == 200:
                successes[1] += 1

    threads = [threading.Thread(target=work) for work in (download, write, download)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert successes[0] and successes[1], "nothing was copied: the race was not run"


def test_a_container_that_swaps_files_for_devices_and_fifos(engine: Engine, name: str) -> None:
    """A node that the container may make but not open is not opened for it, and a fifo does not hold anybody up."""
    racing(
        engine,
        name,
        "mkdir /x; echo a >/x/f; while :; do mv /x/f /x/old; mknod /x/f b 254 0; rm /x/f; mkfifo /x/f; rm /x/f;"
        "mv /x/old /x/f; done",
    )
    deadline = time.monotonic() + max(1.0, 2 * SCALE)
    whole = 0
    while time.monotonic() < deadline:
        status, body = read(engine, name, "/x")
        if status == 200:
            whole += 1
            assert len(body) < 1 << 16
    assert whole


def test_a_container_that_swaps_the_mount_point_of_a_volume(engine: Engine, name: str, canary: Path) -> None:
    """CVE-2026-42306: where the volume is mounted is swapped for a link to the host while copies go on."""
    racing(
        engine,
        name,
        f"mkdir -p /v/sub/d; while :; do mv /v/sub /v/old; ln -s {canary} /v/sub; rm /v/sub; mv /v/old /v/sub; done",
        "-v", f"{name}-volume:/v",
    )  # fmt: skip
    other = f"{name}-other"
    engine.docker(
        "create", "--name", other, "-v", f"{name}-volume:/v", "-v", f"{name}-inner:/v/sub/d", "busybox"
    ).ok()
    try:
        deadline = time.monotonic() + max(1.0, 3 * SCALE)
        while time.monotonic() < deadline:
            put(engine, other, "/v/sub/d", tar_of(("secret", b"overwritten")))
            assert SECRET not in read(engine, other, "/v/sub")[1]
    finally:
        engine.docker("rm", "-f", other, name)
        engine.docker("volume", "rm", "-f", f"{name}-volume", f"{name}-inner")


def test_nothing_of_the_container_is_run_or_loaded(engine: Engine, name: str, tmp_path: Path) -> None:
    """CVE-2019-14271, CVE-2026-41567: decompressors, name services and Python modules of the container's own."""
    import bz2
    import gzip
    import lzma

    programs = " ".join(
        f"{folder}/{program}"
        for folder in ("/bin", "/usr/bin", "/usr/local/bin", "/sbin")
        for program in ("xz", "pigz", "unpigz", "gzip", "bzip2", "zstd", "tar", "docker-untar", "python3")
    )
    run(
        engine,
        name,
        "mkdir -p /usr/bin /usr/local/bin /sbin /lib /etc /lib/x86_64-linux-gnu /marker;"
        f"for p in {programs}; do rm -f $p; printf '#!/bin/busybox sh\\n/bin/busybox touch /marker/hit\\n' >$p;"
        " chmod 755 $p; done; for l in libnss_files.so.2 libnss_compat.so.2 libc.so.6;"
        " do cp /bin/busybox /lib/x86_64-linux-gnu/$l; done; echo 'passwd: files evil' >/etc/nsswitch.conf;"
        'mkdir -p /encodings; echo \'open("/marker/hit","w")\' >/encodings/__init__.py;'
        "cp /encodings/__init__.py /grp.py",
    )
    data = tar_of(("f", b"x"), uname="evil", gname="evil")
    for packed in (
        data,
        gzip.compress(data),
        bz2.compress(data),
        lzma.compress(data),
        lzma.compress(data)[:60],
    ):
        put(engine, name, "/tmp", packed)
        put(engine, name, "/tmp", packed, copyUIDGID="true")
    engine.api(
        "PUT", f"/containers/{name}/archive", data, headers={**TAR, "X-Engine-Chown": "guest"}, path="/tmp"
    )
    get(engine, name, "/tmp").expect(200)
    engine.docker("export", name).ok()
    engine.docker("diff", name).ok()
    assert names(get(engine, name, "/marker").body) == ["marker"]


def test_what_the_copier_is_left_with(wherry: Engine, name: str) -> None:
    """No capability that leads out, no new privileges, no descriptor of the host's, another mount namespace."""
    assert isinstance(wherry, Wherry) and wherry.process is not None
    run(wherry, name, "dd if=/dev/zero of=/tmp/big bs=1M count=32 2>/dev/null")
    out = wherry.stream("GET", f"/containers/{name}/archive", path="/tmp/big")
    assert out.read(1000)
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                children.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(entry))
        except (FileNotFoundError, ProcessLookupError):
            continue
    helpers = [
        pid
        for pid in children[wherry.process.pid]
        if b"wherry.files" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert len(helpers) == 1
    (view,) = children[helpers[0]]
    (job,) = children[view]
    status = Path(f"/proc/{job}/status").read_text()
    allowed = sum(1 << number for number in (0, 1, 3, 4, 27, 31))
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        found = re.search(rf"{kind}:\s+(\w+)", status)
        assert found is not None and int(found[1], 16) & ~allowed == 0, kind
    assert "NoNewPrivs:\t1" in status
    assert os.readlink(f"/proc/{job}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
    mounts = Path(f"/proc/{job}/mountinfo").read_text().splitlines()
    assert all("nodev" in line.split()[5] for line in mounts)
    root = os.stat(f"/proc/{job}/root")
    assert (root.st_dev, root.st_ino) != (os.stat("/").st_dev, os.stat("/").st_ino)
    opened = [os.readlink(f"/proc/{job}/fd/{fd}") for fd in os.listdir(f"/proc/{job}/fd")]
    plain = [
        path for path in opened if path.startswith("/") and path not in ("/dev/null", "/", "/tmp", "/tmp/big")
    ]
    logs = [path for path in plain if path == wherry.log_path]
    assert plain == logs, plain
    out.close()


@pytest.mark.parametrize(
    "size", ["0777777777777", "\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff", "-0000000001 "]
)
def test_absurd_sizes_are_refused_at_once(engine: Engine, name: str, size: str) -> None:
    run(engine, name, "true")
    info = tarfile.TarInfo("f")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size.encode("latin-1")[:12].ljust(12, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    assert put(engine, name, "/tmp", bytes(header) + bytes(1024)).status in (400, 500)
    put(engine, name, "/tmp", tar_of(("after", b"x"))).expect(200)


def test_a_bomb_is_unpacked_in_bounded_memory(wherry: Engine, name: str) -> None:
    """256 MiB of zeros in 256 KiB: it costs the container's disk, not the daemon's memory."""
    import gzip

    assert isinstance(wherry, Wherry) and wherry.process is not None
    run(wherry, name, "true")
    info = tarfile.TarInfo("zeros")
    info.size = 256 << 20
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(256):
            file.write(bytes(1 << 20))
        file.write(bytes(1024))
    with open(f"/proc/{wherry.process.pid}/status") as status:
        before = int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])  # type: ignore[index]
    put(wherry, name, "/tmp", packed.getvalue()).expect(200)
    with open(f"/proc/{wherry.process.pid}/status") as status:
        after = int(re.search(r"VmHWM:\s+(\d+)", status.read())[1])  # type: ignore[index]
    assert after - before < 64 << 10
    assert wherry.docker("exec", name, "stat", "-c", "%s", "/tmp/zeros").ok().line == str(256 << 20)


def test_device_nodes_are_made_but_not_opened(engine: Engine, name: str) -> None:
    run(engine, name, "true")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("disk")
        info.type, info.devmajor, info.devminor = tarfile.BLKTYPE, 254, 0
        archive.addfile(info)
    put(engine, name, "/tmp", out.getvalue())
    engine.docker("exec", name, "dd", "if=/tmp/disk", "of=/dev/null", "bs=512", "count=1").failed(1)
    assert len(get(engine, name, "/tmp").body) < 1 << 16
