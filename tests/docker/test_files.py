"""`docker cp`, `diff` and `export`, by the docker CLI, docker-py and plain HTTP.

What is said of Docker here was tried on Docker: with WHERRY_TEST_HOST the suite runs on a dockerd. Where dockerd
20.10 answers 500 to what is the client's fault, both are taken.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import docker
from tests.docker.engine import Answer, Engine, Wherry

TAR = {"Content-Type": "application/x-tar"}


def tar_of(*members: tuple[str, bytes | None], **fields: Any) -> bytes:
    """A tar of files (bytes) and directories (None)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if content is None else 0o644
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.size = len(content or b"")
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def get(engine: Engine, container: str, path: str) -> Answer:
    return engine.api("GET", f"/containers/{container}/archive", path=path)


def put(engine: Engine, container: str, path: str, data: bytes, **query: object) -> Answer:
    return engine.api("PUT", f"/containers/{container}/archive", data, headers=TAR, path=path, **query)


def path_stat(answer: Answer) -> Any:
    return json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))


def run(engine: Engine, name: str, script: str, *flags: str) -> None:
    """A running container in which the script has run."""
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        *flags,
        "busybox",
        "sh",
        "-c",
        f"{script}; touch /tmp/ready; exec sleep 600",
    ).ok()
    deadline = time.monotonic() + 60
    while engine.docker("exec", name, "test", "-e", "/tmp/ready").code:
        assert time.monotonic() < deadline, "the script did not end"
        time.sleep(0.02)


def stopped(engine: Engine, name: str, script: str, *flags: str) -> None:
    engine.docker("run", "--name", name, *flags, "busybox", "sh", "-c", script).ok()


MAKE = """mkdir -p /d/e; echo hi >/d/f; ln -s f /d/rel; ln -s /etc/passwd /d/abs; ln -s /d /dl
ln -s /nowhere /broken; mkfifo /d/p; chmod 4755 /d/f; chmod 1777 /d/e; mknod /d/null c 1 3; ln /d/f /d/hard"""


@pytest.fixture(params=["running", "stopped"])
def made(request: pytest.FixtureRequest, engine: Engine, name: str) -> str:
    """A container with all kinds of files, running and stopped."""
    (run if request.param == "running" else stopped)(engine, name, MAKE)
    return name


def test_stat_tells_name_size_mode_and_where_a_link_leads(engine: Engine, made: str) -> None:
    def look(path: str) -> Any:
        return path_stat(engine.api("HEAD", f"/containers/{made}/archive", path=path).expect(200))

    directory, set_id, sticky = 1 << 31, 1 << 23, 1 << 20
    found = look("/d/f")
    assert (found["name"], found["size"], found["mode"]) == ("f", 3, set_id | 0o755)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", found["mtime"])
    assert look("/d/e")["mode"] == directory | sticky | 0o777
    assert look("d/e/../f")["name"] == "f"
    assert look("../../d/f")["name"] == "f"
    assert look("/d/")["name"] == "d"
    assert look("/d/.")["name"] == "."
    assert look("/")["name"] == "/"
    link = look("/d/rel")
    assert (link["mode"] >> 27 & 1, link["linkTarget"]) == (1, "/d/f")
    assert look("/d/abs")["linkTarget"] == "/etc/passwd"
    assert look("/broken")["linkTarget"] == "/nowhere"
    assert look("/dl/")["mode"] & directory
    assert look("/dl/f")["name"] == "f"
    assert look("/d/p")["mode"] >> 25 & 1
    assert look("/d/null")["mode"] >> 21 & 1


def test_download_names_what_was_asked_for(engine: Engine, made: str) -> None:
    kinds = {"d/abs": "l", "d/e": "d", "d/f": "-", "d/null": "c", "d/p": "p", "d/rel": "l", "d": "d"}
    answer = get(engine, made, "/d").expect(200)
    assert answer.headers["Content-Type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert set(members) == {*kinds, "d/hard"}
        for name, kind in kinds.items():
            member = members[name]
            is_kind = {
                "l": member.issym(),
                "d": member.isdir(),
                "-": member.isreg(),
                "c": member.ischr(),
                "p": member.isfifo(),
            }
            assert is_kind[kind], name
        assert members["d/hard"].islnk() and members["d/hard"].linkname == "d/f"
        assert members["d/f"].mode & 0o7777 == 0o4755
        content = archive.extractfile("d/f")
        assert content is not None and content.read() == b"hi\n"
        assert (members["d/null"].devmajor, members["d/null"].devminor) == (1, 3)
    assert names(get(engine, made, "/d/.").body)[0] == "."
    assert "./f" in names(get(engine, made, "/d/.").body)
    assert names(get(engine, made, "/dl").body) == ["dl"]  # the link itself
    assert "dl/f" in names(get(engine, made, "/dl/").body)
    assert names(get(engine, made, "/dl/f").body) == ["f"]
    assert "/bin/busybox" in {"/" + name.lstrip("/") for name in names(get(engine, made, "/").body)}


def test_what_is_not_there_is_told_in_dockers_words(engine: Engine, made: str) -> None:
    for path in ("/nope", "/nope/x", "/broken/"):
        answer = get(engine, made, path)
        assert (answer.status, answer.message) == (
            404,
            f"Could not find the file {path} in container {made}",
        )
        assert engine.api("HEAD", f"/containers/{made}/archive", path=path).status == 404
    answer = get(engine, made, "/d/f/")
    assert answer.status in (400, 500) and answer.message.endswith("not a directory")
    assert engine.api("GET", f"/containers/{made}/archive").expect(400).message == (
        "bad parameter: pathcannot be empty"
    )
    assert get(engine, "no-such-container", "/x").expect(404).message == (
        "No such container: no-such-container"
    )


def test_upload_into_a_directory(engine: Engine, made: str) -> None:
    data = tar_of(("new", None), ("new/file", b"content"), ("f", b"other"))
    put(engine, made, "/d", data).expect(200)
    put(engine, made, "/dl", tar_of(("through-link", b"x"))).expect(200)
    inside = get(engine, made, "/d").body
    with tarfile.open(fileobj=io.BytesIO(inside)) as archive:
        content = archive.extractfile("d/new/file")
        assert content is not None and content.read() == b"content"
        replaced = archive.extractfile("d/f")
        assert replaced is not None and replaced.read() == b"other"
        assert "d/through-link" in archive.getnames()
    answer = put(engine, made, "/d/f", data)
    assert answer.status in (400, 500) and answer.message == "extraction point is not a directory"
    for path in ("/nope", "/nope/x", "/broken"):
        assert put(engine, made, path, data).expect(404).message == (
            f"Could not find the file {path} in container {made}"
        )


def test_upload_that_would_change_a_kind(engine: Engine, made: str) -> None:
    answer = put(engine, made, "/", tar_of(("d", b"a file")), noOverwriteDirNonDir="true")
    assert answer.status in (400, 500)
    assert answer.message.endswith('cannot overwrite directory "/d" with non-directory "/"')
    answer = put(engine, made, "/d", tar_of(("f", None)), noOverwriteDirNonDir="true")
    assert answer.status in (400, 500)
    assert answer.message.endswith('cannot overwrite non-directory "/d/f" with directory "/d"')
    put(engine, made, "/d", tar_of(("f", None), ("f/x", b""))).expect(200)
    assert "d/f/x" in names(get(engine, made, "/d").body)
    put(engine, made, "/", tar_of(("d", b"a file"))).expect(200)
    assert names(get(engine, made, "/d").body) == ["d"]


def test_compressed_uploads_and_downloads(engine: Engine, made: str) -> None:
    import bz2
    import gzip
    import lzma

    for name, pack in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        put(engine, made, "/tmp", pack(tar_of((name, b"packed")))).expect(200)
    there = set(names(get(engine, made, "/tmp").body))
    assert {"tmp/gz", "tmp/bz2", "tmp/xz"} <= there
    answer = engine.api(
        "GET", f"/containers/{made}/archive", headers={"Accept-Encoding": "gzip"}, path="/tmp/gz"
    ).expect(200)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert names(gzip.decompress(answer.body)) == ["gz"]


def test_a_broken_archive_is_refused(engine: Engine, made: str) -> None:
    whole = tar_of(("f", b"x" * 2000))
    for data in (b"garbage", whole[:700]):
        assert put(engine, made, "/tmp", data).status in (400, 500)
    engine.docker("cp", f"{made}:/etc/passwd", "-").ok()


def test_read_only_roots_and_mounts(engine: Engine, name: str, tmp_path: Path) -> None:
    run(
        engine, name, "true", "--read-only", "--tmpfs", "/tmp", "-v", f"{tmp_path}:/ro:ro", "-v", "/anonymous"
    )
    data = tar_of(("f", b"x"))
    for _ in range(2):
        for path, text in (
            ("/", "container rootfs is marked read-only"),
            ("/etc", "container rootfs is marked read-only"),
            ("/ro", "mounted volume is marked read-only"),
        ):
            answer = put(engine, name, path, data)
            assert answer.status in (403, 500) and answer.message == text, path
        put(engine, name, "/anonymous", data).expect(200)
        engine.docker("stop", "-t0", name).ok()
    assert os.listdir(tmp_path) == []


def test_volumes_and_binds_are_seen_whatever_the_state(engine: Engine, name: str, tmp_path: Path) -> None:
    (tmp_path / "from-host").write_text("bind")
    run(engine, name, "echo volume >/volume/inside", "-v", f"{tmp_path}:/bind", "-v", "/volume")
    for state in ("running", "stopped", "running"):
        if state == "stopped":
            engine.docker("stop", "-t0", name).ok()
        assert "bind/from-host" in names(get(engine, name, "/bind").body), state
        assert "volume/inside" in names(get(engine, name, "/volume").body), state
        put(engine, name, "/bind", tar_of((f"by-cp-{state}", b""))).expect(200)
        put(engine, name, "/volume", tar_of((f"by-cp-{state}", b""))).expect(200)
        assert (tmp_path / f"by-cp-{state}").exists()
        engine.docker("start", name).ok()
    listed = engine.docker("exec", name, "ls", "/volume").ok().out.split()
    assert {"by-cp-running", "by-cp-stopped"} <= set(listed)


def test_a_tmpfs_of_a_running_container_is_seen(wherry: Engine, name: str) -> None:
    run(wherry, name, "echo x >/scratch/file", "--tmpfs", "/scratch")
    assert names(get(wherry, name, "/scratch").body) == ["scratch", "scratch/file"]


def test_kernel_filesystems_look_empty(wherry: Engine, name: str) -> None:
    run(wherry, name, "true")
    assert names(get(wherry, name, "/proc").body) == ["proc"]
    get(wherry, name, "/proc/self").expect(404)
    get(wherry, name, "/proc/version").expect(404)
    assert not [n for n in names(get(wherry, name, "/").body) if re.match("/?(proc|sys)/.", n)]
    put(wherry, name, "/proc", tar_of(("x", b""))).expect(403)


def test_a_created_and_a_paused_container(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", f"{name}-new", "busybox", "cat", "/etc/given").ok()
    put(engine, f"{name}-new", "/etc", tar_of(("given", b"before the start\n"))).expect(200)
    assert engine.docker("start", "-a", f"{name}-new").ok().out == "before the start\n"
    run(engine, name, "echo paused >/file")
    engine.docker("pause", name).ok()
    assert names(get(engine, name, "/file").body) == ["file"]
    put(engine, name, "/tmp", tar_of(("while-paused", b""))).expect(200)
    engine.docker("unpause", name).ok()
    engine.docker("exec", name, "test", "-e", "/tmp/while-paused").ok()


def test_numeric_owners_modes_and_times_are_kept_both_ways(engine: Engine, name: str) -> None:
    run(engine, name, "touch /mine; chown 1234:4321 /mine; chmod 6751 /mine; touch -d @1000000000 /mine")
    with tarfile.open(fileobj=io.BytesIO(get(engine, name, "/mine").body)) as archive:
        (member,) = archive.getmembers()
    assert (member.uid, member.gid, member.mode & 0o7777, member.mtime) == (1234, 4321, 0o6751, 10**9)
    put(engine, name, "/tmp", tar_of(("f", b"x"), uid=77, gid=78, mode=0o2640, mtime=10**9)).expect(200)
    assert engine.docker("exec", name, "stat", "-c", "%u %g %a %Y", "/tmp/f").ok().line == (
        "77 78 2640 1000000000"
    )


def test_owners_by_name_are_the_containers_own(wherry: Engine, name: str) -> None:
    """Ours: the header X-Engine-Chown. Docker's look-up of names is in the host's files (moby#34142)."""
    run(wherry, name, "true")
    for text, expected in (
        ("guest", "405:100"),
        ("guest:staff", "405:50"),
        ("7:8", "7:8"),
        (":staff", "0:50"),
    ):
        wherry.api(
            "PUT",
            f"/containers/{name}/archive",
            tar_of(("f", b"x"), uid=77, gid=78),
            headers={**TAR, "X-Engine-Chown": text},
            path="/tmp",
        ).expect(200)
        assert wherry.docker("exec", name, "stat", "-c", "%u:%g", "/tmp/f").ok().line == expected
    answer = wherry.api(
        "PUT",
        f"/containers/{name}/archive",
        tar_of(("f", b"")),
        headers={**TAR, "X-Engine-Chown": "nobody-here"},
        path="/tmp",
    )
    assert answer.expect(400).message == "unable to find user nobody-here: no matching entries in passwd file"


def test_odd_names_sparse_files_and_attributes(wherry: Engine, name: str, tmp_path: Path) -> None:
    """Newlines, bytes that are not UTF-8, long paths, holes, capabilities: out and in again."""
    odd = [b"new\nline", b"not-\xff-utf8", b"sp ace", b"\xc3\xa4" * 100, b"x" * 255]
    for each in odd:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + each)).write_bytes(each)
    deep = tmp_path / "/".join(["deep" * 20] * 12)
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    with open(tmp_path / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(64 << 20)
        file.write(b"end")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    (tmp_path / "capable").write_text("x")
    os.setxattr(tmp_path / "capable", "security.capability", capability)
    os.setxattr(tmp_path / "capable", "user.note", b"binary\xff\0")
    run(wherry, name, "cp -a /given /copy", "-v", f"{tmp_path}:/given:ro")
    data = get(wherry, name, "/given").body
    assert len(data) < 8 << 20, "the hole was sent"
    put(wherry, name, "/tmp", data).expect(200)
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        found = {os.fsencode(n).removeprefix(b"given/") for n in archive.getnames()}
        assert set(odd) <= found
        sparse = archive.getmember("given/sparse")
        assert sparse.size == (64 << 20) + 3
    again = get(wherry, name, "/tmp/given").body
    assert again == data
    assert wherry.docker("exec", name, "stat", "-c", "%s", "/tmp/given/sparse").ok().line == str(
        (64 << 20) + 3
    )
    assert int(wherry.docker("exec", name, "stat", "-c", "%b", "/tmp/given/sparse").ok().line) < 1000


def test_a_big_file_goes_through_in_bounded_memory(wherry: Engine, name: str) -> None:
    """256 MiB both ways; the daemon's and the helper's peak may grow by a fraction of that."""
    run(wherry, name, "dd if=/dev/zero of=/tmp/big bs=1M count=256 2>/dev/null; chmod 600 /tmp/big")
    assert isinstance(wherry, Wherry) and wherry.process is not None

    def peak_kb() -> int:
        assert isinstance(wherry, Wherry) and wherry.process is not None
        with open(f"/proc/{wherry.process.pid}/status") as file:
            return int(re.search(r"VmHWM:\s+(\d+)", file.read())[1])  # type: ignore[index]

    get(wherry, name, "/etc/passwd").expect(200)
    before = peak_kb()
    out = wherry.stream("GET", f"/containers/{name}/archive", path="/tmp/big")
    size = 0
    while piece := out.read(1 << 20):
        size += len(piece)
    assert size > 256 << 20
    pipe = wherry.popen("cp", f"{name}:/tmp/big", "-")
    sink = wherry.popen("cp", "-", f"{name}:/root", stdin=pipe.stdout)
    assert pipe.stdout is not None
    pipe.stdout.close()
    with pipe, sink:
        assert sink.wait(100) == 0 and pipe.wait(100) == 0
    assert wherry.docker("exec", name, "stat", "-c", "%s", "/root/big").ok().line == str(256 << 20)
    assert peak_kb() - before < 64 << 10


def test_a_client_that_leaves_ends_the_copy(wherry: Engine, name: str) -> None:
    """No process of the helper stays behind, and the container can be started again at once."""
    stopped(wherry, name, "dd if=/dev/zero of=/tmp/big bs=1M count=64 2>/dev/null")
    out = wherry.stream("GET", f"/containers/{name}/archive", path="/tmp/big")
    assert out.read(1000)
    starting = wherry.popen("start", name)
    with starting:
        time.sleep(0.2)
        assert starting.poll() is None, "the container was started while its files were mounted"
        out.close()
        assert starting.wait(60) == 0
    wherry.docker("wait", name).ok()


def test_a_removal_ends_the_copy(wherry: Engine, name: str) -> None:
    stopped(wherry, name, "dd if=/dev/zero of=/tmp/big bs=1M count=64 2>/dev/null")
    out = wherry.stream("GET", f"/containers/{name}/archive", path="/tmp/big")
    assert out.read(1000)
    wherry.docker("rm", name).ok()
    with pytest.raises(Exception):  # noqa: B017  cut off: which exception depends on where
        while out.read(1 << 20):
            pass
        raise EOFError("it ended in time")


def test_several_at_a_time_share_one_mount(wherry: Engine, name: str) -> None:
    stopped(wherry, name, "mkdir /d; seq 1 2000 >/d/f")
    first = wherry.stream("GET", f"/containers/{name}/archive", path="/")
    assert first.read(600)
    put(wherry, name, "/d", tar_of(("second", b"x"))).expect(200)
    assert "d/second" in names(get(wherry, name, "/d").body)
    while first.read(1 << 20):
        pass
    wherry.docker("start", name).ok()


def test_a_copy_goes_on_nowhere_when_the_daemon_dies(
    other: Callable[..., Wherry],
) -> None:
    """kill -9 in the middle of a copy from a stopped container: the next daemon starts it without delay."""
    daemon = other()
    stopped(daemon, "cc", "dd if=/dev/zero of=/tmp/big bs=1M count=64 2>/dev/null")
    out = daemon.stream("GET", "/containers/cc/archive", path="/tmp/big")
    assert out.read(1000)
    daemon.kill()
    daemon.start()
    daemon.docker("start", "-a", "cc").ok()
    put(daemon, "cc", "/tmp", tar_of(("x", b""))).expect(200)


def test_docker_cp_both_ways(engine: Engine, made: str, tmp_path: Path) -> None:
    """The real client's own rules: into or as, with /. or without, through links, as a stream."""
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("text")
    (source / "link").symlink_to("sub/file")
    engine.docker("cp", str(source), f"{made}:/d").ok()
    engine.docker("cp", str(source), f"{made}:/d/other-name").ok()
    engine.docker("cp", f"{source}/.", f"{made}:/d/e").ok()
    engine.docker("cp", str(source / "sub" / "file"), f"{made}:/d/renamed").ok()
    found = set(names(get(engine, made, "/d").body))
    assert {"d/tree/sub/file", "d/other-name/sub/file", "d/e/sub/file", "d/renamed", "d/tree/link"} <= found
    out = tmp_path / "out"
    out.mkdir()
    engine.docker("cp", f"{made}:/d/tree", str(out)).ok()
    assert (out / "tree" / "sub" / "file").read_text() == "text"
    assert (out / "tree" / "link").is_symlink()
    engine.docker("cp", f"{made}:/d/tree/.", str(out / "fresh")).ok()
    assert (out / "fresh" / "sub" / "file").exists()
    engine.docker("cp", f"{made}:/d/abs", str(out)).ok()
    assert (out / "abs").is_symlink()
    engine.docker("cp", "-L", f"{made}:/d/abs", str(out / "followed")).ok()
    assert (out / "followed").read_text().startswith("root:")
    assert names(engine.docker("cp", f"{made}:/d/f", "-").ok().raw) == ["f"]
    engine.docker("cp", "-", f"{made}:/tmp", input=tar_of(("from-stdin", b"s"))).ok()
    assert "tmp/from-stdin" in names(get(engine, made, "/tmp").body)
    engine.docker("cp", f"{made}:/nope", str(out)).failed(1, "Could not find the file /nope in container")
    engine.docker("cp", str(source), f"{made}:/d/f").failed(1, "cannot copy directory")


def test_events_of_copies(engine: Engine, made: str) -> None:
    since = int(time.time())
    get(engine, made, "/d/f").expect(200)
    put(engine, made, "/tmp", tar_of(("f", b""))).expect(200)
    engine.docker("export", made).ok()
    actions: list[str] = []
    deadline = time.monotonic() + 30
    while "export" not in actions and time.monotonic() < deadline:
        lines = engine.docker(
            "events", "--since", str(since), "--until", f"{time.time():.3f}", "--filter", f"container={made}",
            "--format", "{{.Action}}",
        ).ok()  # fmt: skip
        actions = [
            action for action in lines.out.split() if action in ("archive-path", "extract-to-dir", "export")
        ]
    assert actions == ["archive-path", "extract-to-dir", "export"]


def test_docker_py(engine: Engine, made: str) -> None:
    client = docker.DockerClient(base_url=engine.host)
    try:
        container = client.containers.get(made)
        pieces, found = container.get_archive("/d/f")
        assert found["name"] == "f" and found["size"] == 3
        assert names(b"".join(pieces)) == ["f"]
        assert container.put_archive("/tmp", tar_of(("by-sdk", b"x")))
        assert {"Path": "/tmp/by-sdk", "Kind": 1} in container.diff()
        exported = b"".join(container.export())
        assert "tmp/by-sdk" in names(exported)
    finally:
        client.close()


def test_diff(engine: Engine, name: str) -> None:
    run(
        engine,
        name,
        "echo a >/etc/new; echo b >>/etc/passwd; rm -r /home; mkdir -p /x/y; echo k >/x/y/f; rm /bin/ls;"
        "chmod 700 /root; ln -s a /link; mknod /node c 1 3; mkdir /etc/gone; rmdir /etc/gone; touch -c /usr;"
        "rm -r /var; mkdir /var; touch /var/q; echo h >>/etc/hosts; chmod 644 /etc/plain-file",
    )
    expected = {
        "C /bin", "D /bin/ls", "C /etc", "A /etc/new", "C /etc/passwd", "D /home", "A /link", "A /node",
        "C /root", "C /tmp", "A /tmp/ready", "C /var", "A /var/q", "A /x", "A /x/y", "A /x/y/f",
    }  # fmt: skip
    assert set(engine.docker("diff", name).ok().out.splitlines()) == expected
    engine.docker("stop", "-t0", name).ok()
    assert set(engine.docker("diff", name).ok().out.splitlines()) == expected


def test_diff_of_nothing(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox").ok()
    assert engine.api("GET", f"/containers/{name}/changes").expect(200).json is None
    engine.docker("run", "--name", f"{name}-ran", "busybox", "true").ok()
    assert engine.docker("diff", f"{name}-ran").ok().out == ""
    engine.docker("diff", "no-such-container").failed(1, "No such container: no-such-container")


def test_diff_and_export_with_the_vfs_driver(other: Callable[..., Wherry]) -> None:
    daemon = other("--storage-driver", "vfs")
    daemon.docker(
        "run", "--name", "cc", "busybox", "sh", "-c", "rm -r /etc; mkdir /new; echo x >>/usr/f; rm /bin/ls"
    ).ok()
    assert set(daemon.docker("diff", "cc").ok().out.splitlines()) >= {
        "C /bin", "D /bin/ls", "A /new", "A /usr/f", "C /usr", "D /etc/passwd"
    }  # fmt: skip
    assert "new" in names(daemon.docker("export", "cc").ok().raw)
    put(daemon, "cc", "/new", tar_of(("f", b"x"))).expect(200)
    assert names(get(daemon, "cc", "/new").body) == ["new", "new/f"]


def test_export_is_the_bare_root(engine: Engine, name: str, tmp_path: Path) -> None:
    (tmp_path / "bound").write_text("x")
    run(engine, name, "echo v >/volume/inside; rm /bin/ls", "-v", "/volume", "-v", f"{tmp_path}:/bind")
    for _ in range(2):
        data = engine.docker("export", name).ok().raw
        found = set(names(data))
        assert {"bin/busybox", "volume", "bind", "tmp/ready", "proc"} <= found
        assert not found & {"volume/inside", "bind/bound", "bin/ls"}
        assert not [n for n in found if re.match("(proc|sys|dev/pts)/.", n)]
        assert not [n for n in found if n.startswith(("/", "./")) or n in (".", "")]
        engine.docker("stop", "-t0", name).ok()
    target = tmp_path / "out.tar"
    engine.docker("export", "-o", str(target), name).ok()
    with tarfile.open(target) as archive:
        member = archive.getmember("bin/busybox")
        assert member.isreg() and member.mode & stat.S_IXUSR
    engine.docker("export", "no-such-container").failed(1, "No such container: no-such-container")
