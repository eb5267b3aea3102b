"""Volumes and mounts, by the docker CLI and docker-py.

What is said of Docker here was tried on Docker: with WHERRY_TEST_HOST the suite runs on a dockerd. What is newer than
the dockerd at hand, or ours alone, takes the fixture `wherry`.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker.errors
import pytest

import docker
from tests.conftest import MARK
from tests.docker import rootfs
from tests.docker.engine import Client, Engine, Wherry
from tests.unit.volumes.plugin import Plugin, installed_plugin

HEX64 = re.compile("[0-9a-f]{64}")


def local_volumes(engine: Engine) -> set[str]:
    """Plugins are the machine's: another test run's volumes would be seen too."""
    return set(engine.docker("volume", "ls", "-q", "-f", "driver=local").out.split())


@pytest.fixture
def volume(engine: Engine, name: str) -> Iterator[str]:
    """A name for a volume (and the start of names for more); all of that name go when the test ends."""
    before = local_volumes(engine)
    yield name
    ids = engine.docker("ps", "-aq", "--filter", f"name=^/?{name}").out.split()
    if ids:
        engine.docker("rm", "-f", "-v", *ids)
    left = local_volumes(engine) - before
    left.update(engine.docker("volume", "ls", "-q", "-f", f"name=^{name}").out.split())
    if left:
        engine.docker("volume", "rm", "-f", *left)


@pytest.fixture(scope="module")
def image(engine: Engine) -> Iterator[str]:
    """busybox with a VOLUME that holds files of several owners, a symlink out of it, and a directory of a user's."""
    out = io.BytesIO(rootfs.busybox_tar())
    with tarfile.open(fileobj=out, mode="a", format=tarfile.PAX_FORMAT) as archive:

        def put(path: str, kind: bytes, **fields: Any) -> None:
            info = tarfile.TarInfo(path)
            info.type, content = kind, fields.pop("content", b"")
            for key, value in fields.items():
                setattr(info, key, value)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        put("data", tarfile.DIRTYPE, mode=0o2750, uid=405, gid=100)
        put(
            "data/file",
            tarfile.REGTYPE,
            mode=0o4711,
            uid=1,
            gid=2,
            content=b"from the image\n",
            mtime=1000000000,
        )
        put("data/deep", tarfile.DIRTYPE, mode=0o1777)
        put("data/deep/er", tarfile.REGTYPE, mode=0o600, uid=405, content=b"x")
        put("data/hard", tarfile.LNKTYPE, linkname="data/file", mode=0o4711, uid=1, gid=2, mtime=1000000000)
        put("data/out", tarfile.SYMTYPE, linkname="../../../../etc/passwd", mode=0o777)
        put("data/pipe", tarfile.FIFOTYPE, mode=0o622)
        put("way", tarfile.SYMTYPE, linkname="/data", mode=0o777)
        put("escape", tarfile.SYMTYPE, linkname="../../../../../..", mode=0o777)
    tag = f"{MARK}/volumes"
    engine.docker(
        "import", "--change", 'CMD ["sh"]', "--change", "VOLUME /data", "-", tag, input=out.getvalue()
    ).ok()
    yield tag
    engine.docker("rmi", "-f", tag)


@pytest.fixture
def sdk(engine: Engine) -> Iterator[Any]:
    client = docker.DockerClient(base_url=engine.host, version="auto", timeout=60)
    yield client
    client.close()


def mounts_of(engine: Engine, container: str) -> dict[str, dict[str, Any]]:
    found = json.loads(engine.docker("inspect", "-f", "{{json .Mounts}}", container).ok().out)
    return {mount["Destination"]: mount for mount in found}


# The five verbs


def test_create_inspect_ls_rm(engine: Engine, volume: str) -> None:
    assert engine.docker("volume", "create", "--label", "a=b", volume).ok().line == volume
    assert engine.docker("volume", "create", volume).ok().line == volume
    (found,) = json.loads(engine.docker("volume", "inspect", volume).ok().out)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", found.pop("CreatedAt"))
    assert os.path.isdir(found["Mountpoint"]) and found.pop("Mountpoint").endswith(f"/volumes/{volume}/_data")
    assert found == {
        "Driver": "local",
        "Labels": {"a": "b"},
        "Name": volume,
        "Options": None,
        "Scope": "local",
    }
    listed = engine.docker("volume", "ls", "-f", f"name=^{volume}$").ok().out
    assert listed == f"DRIVER    VOLUME NAME\nlocal     {volume}\n"
    assert engine.docker("volume", "rm", volume).ok().line == volume
    assert not os.path.exists(os.path.dirname(f"/volumes/{volume}"))
    engine.docker("volume", "rm", volume).failed(
        1, f"Error response from daemon: get {volume}: no such volume"
    )
    engine.docker("volume", "rm", "-f", volume).ok()
    engine.docker("volume", "inspect", volume).failed(1, f"get {volume}: no such volume")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["-o", "type=tmpfs"], 'create NAME: missing required option: "device"'),
        (["-o", "foo=bar"], 'create NAME: invalid option: "foo"'),
        (["-o", "size=1g"], "create NAME: quota size requested but no quota support"),
        (["-d", "no-such-driver"], 'create NAME: error looking up volume plugin no-such-driver: plugin "no-such-driver" not found'),
    ],
)  # fmt: skip
def test_create_refused(engine: Engine, volume: str, options: list[str], text: str) -> None:
    engine.docker("volume", "create", *options, volume).failed(1, text.replace("NAME", volume))
    assert volume not in engine.docker("volume", "ls", "-q").out.split()


def test_filters(engine: Engine, volume: str) -> None:
    for suffix, labels in (("-a", ["--label", "k=1"]), ("-b", ["--label", "k=2"]), ("-c", [])):
        engine.docker("volume", "create", *labels, volume + suffix).ok()
    engine.docker("create", "--name", volume, "-v", f"{volume}-a:/a", "busybox").ok()

    def names(*filters: str) -> list[str]:
        given = [part for text in (f"name={volume}", *filters) for part in ("-f", text)]
        return [n.removeprefix(volume) for n in engine.docker("volume", "ls", "-q", *given).ok().out.split()]

    assert names() == ["-a", "-b", "-c"]
    assert names("label=k") == ["-a", "-b"] and names("label=k=2") == ["-b"] and names("label=z") == []
    assert names("dangling=true") == ["-b", "-c"] and names("dangling=0") == ["-a"]
    assert names("driver=local") == ["-a", "-b", "-c"] and names("driver=other") == []
    engine.docker("volume", "ls", "-f", "foo=bar").failed(1, "nvalid filter 'foo'")
    engine.docker("volume", "ls", "-f", "dangling=perhaps").failed(1, "nvalid filter 'dangling=[perhaps]'")
    assert engine.docker(
        "ps", "-a", "--filter", f"volume={volume}-a", "--format", "{{.Names}} {{.Mounts}}"
    ).ok().line == (f"{volume} {(volume + '-a')[:14]}…")
    assert (
        engine.docker("ps", "-aq", "--filter", "volume=/a", "--filter", f"name={volume}").ok().out.count("\n")
        == 1
    )
    assert engine.docker("ps", "-aq", "--filter", f"volume={volume}-b").ok().out == ""


def test_prune(wherry: Engine, volume: str) -> None:
    wherry.docker("volume", "create", "--label", f"{MARK}=1", f"{volume}-named").ok()
    wherry.docker("volume", "create", "--label", f"{MARK}=1", f"{volume}-used").ok()
    wherry.docker("create", "--name", volume, "-v", f"{volume}-used:/d", "-v", "/anonymous", "busybox").ok()
    anonymous = mounts_of(wherry, volume)["/anonymous"]["Name"]
    wherry.docker("volume", "prune", "-f", "--filter", "bad=1").failed(1, "invalid filter 'bad'")
    wherry.docker("rm", volume).ok()
    wherry.docker("create", "--name", volume, "-v", f"{volume}-used:/d", "busybox").ok()
    assert anonymous in wherry.docker("volume", "prune", "-f").ok().out.split()
    left = wherry.docker("volume", "ls", "-q", "-f", f"name={volume}").out.split()
    assert left == [f"{volume}-named", f"{volume}-used"]
    out = wherry.docker("volume", "prune", "-af", "--filter", f"label={MARK}").ok().out
    assert out == f"Deleted Volumes:\n{volume}-named\n\nTotal reclaimed space: 0B\n"
    old = wherry.api("POST", "/v1.41/volumes/prune", filters={"label": [f"{MARK}=nothing"]}).expect(200)
    assert old.json == {"VolumesDeleted": [], "SpaceReclaimed": 0}


def test_in_use(engine: Engine, volume: str) -> None:
    container = engine.docker("create", "--name", volume, "-v", f"{volume}:/d", "busybox").ok().line
    for flag in ([], ["-f"]):
        text = f"remove {volume}: volume is in use - [{container}]"
        engine.docker("volume", "rm", *flag, volume).failed(1, text)
        assert engine.api("DELETE", f"/volumes/{volume}").expect(409).message == text
    engine.docker("rm", volume).ok()
    engine.docker("volume", "rm", volume).ok()


def test_the_api_itself(engine: Engine, volume: str) -> None:
    made = engine.api(
        "POST", "/v1.41/volumes/create", {"Name": volume, "DriverOpts": {}, "Labels": {}}
    ).expect(201)
    assert made.json["Name"] == volume and made.json["Labels"] == {} and made.json["Options"] == {}
    assert engine.api("POST", "/v1.41/volumes/create", {"Name": volume}).expect(201).json == made.json
    assert set(engine.api("GET", "/volumes").expect(200).json) == {"Volumes", "Warnings"}
    assert engine.api("GET", f"/volumes/{volume}").expect(200).json == made.json
    engine.api("DELETE", f"/volumes/{volume}").expect(204)
    assert engine.api("GET", f"/volumes/{volume}").expect(404).message == f"get {volume}: no such volume"
    assert engine.api("DELETE", f"/volumes/{volume}").expect(404).message == f"get {volume}: no such volume"
    assert HEX64.fullmatch(engine.api("POST", "/volumes/create", {}).expect(201).json["Name"])


def test_cluster_volumes_are_refused(wherry: Engine, volume: str) -> None:
    assert wherry.api("PUT", f"/volumes/{volume}", {}, version="1").expect(503).message == (
        "volume update only valid for cluster volumes, but swarm is unavailable"
    )
    wherry.api("POST", "/volumes/create", {"Name": volume, "ClusterVolumeSpec": {}}).expect(503)
    assert wherry.api("POST", "/volumes/create", {}).expect(201).json["Labels"] == {
        "com.docker.volume.anonymous": ""
    }


# Data


def test_data_outlives_containers(engine: Engine, volume: str) -> None:
    engine.docker("run", "--rm", "-v", f"{volume}:/d", "busybox", "sh", "-c", "echo kept >/d/f").ok()
    assert (
        engine.docker("run", "--rm", "-v", f"{volume}:/other", "busybox", "cat", "/other/f").ok().out
        == "kept\n"
    )
    engine.docker("run", "--rm", "-v", f"{volume}:/d:ro", "busybox", "touch", "/d/g").failed(
        1, "Read-only file system"
    )
    engine.docker(
        "run", "--rm", "--mount", f"type=volume,src={volume},dst=/d,readonly", "busybox", "touch", "/d/g"
    ).failed(1, "Read-only file system")


def test_anonymous_volumes_go_with_rm_v_and_rm(engine: Engine, volume: str) -> None:
    def volumes() -> set[str]:
        return local_volumes(engine)

    before = volumes()
    engine.docker("create", "--name", volume, "-v", "/a", "--mount", "type=volume,dst=/b", "busybox").ok()
    made = volumes() - before
    assert len(made) == 2 and all(HEX64.fullmatch(name) for name in made)
    found = mounts_of(engine, volume)
    assert {found["/a"]["Name"], found["/b"]["Name"]} == made
    engine.docker("rm", volume).ok()
    assert volumes() - before == made  # without -v they stay
    engine.docker("create", "--name", volume, "-v", "/a", "-v", f"{volume}:/named", "busybox").ok()
    engine.docker("rm", "-v", volume).ok()
    assert volumes() - before == {*made, volume}
    engine.docker("run", "--rm", "-v", "/a", "-v", f"{volume}:/named", "busybox", "true").ok()
    deadline = time.monotonic() + 10
    while volumes() - before != {*made, volume}:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_inspect_shows_mounts_as_docker_does(engine: Engine, volume: str, tmp_path: Path) -> None:
    engine.docker(
        "create", "--name", volume, "-v", f"{volume}:/a", "-v", f"{volume}-2:/b:ro", "-v", f"{tmp_path}:/c:ro,rslave",
        "-v", "/d", "--mount", f"type=volume,src={volume},dst=/e", "--mount", "type=tmpfs,dst=/f", "--tmpfs", "/g", "busybox",
    ).ok()  # fmt: skip
    found = mounts_of(engine, volume)
    source = found["/a"]["Source"]
    assert source.endswith(f"/volumes/{volume}/_data")
    plain = {
        "Type": "volume",
        "Name": volume,
        "Source": source,
        "Driver": "local",
        "Mode": "z",
        "RW": True,
        "Propagation": "",
    }
    assert found["/a"] == {**plain, "Destination": "/a"} and found["/e"] == {**plain, "Destination": "/e"}
    assert (found["/b"]["Mode"], found["/b"]["RW"], found["/b"]["Propagation"]) == ("ro", False, "")
    assert found["/c"] == {
        "Type": "bind", "Source": str(tmp_path), "Destination": "/c", "Mode": "ro,rslave", "RW": False, "Propagation": "rslave",
    }  # fmt: skip
    assert HEX64.fullmatch(found["/d"]["Name"]) and found["/d"]["Mode"] == ""
    assert found["/f"]["Type"] == "tmpfs" and "/g" not in found
    host = json.loads(engine.docker("inspect", "-f", "{{json .HostConfig}}", volume).ok().out)
    # The CLI does not keep their order.
    assert set(host["Binds"]) == {f"{volume}:/a", f"{volume}-2:/b:ro", f"{tmp_path}:/c:ro,rslave"}
    assert host["Mounts"] == [
        {"Type": "volume", "Source": volume, "Target": "/e"},
        {"Type": "tmpfs", "Target": "/f"},
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["-v", "vv:a"], "invalid volume specification: 'vv:a': invalid mount config for type \"volume\": invalid mount path: 'a' mount path must be absolute"),
        (["-v", "vv:/"], "invalid volume specification: 'vv:/': invalid mount config for type \"volume\": invalid specification: destination can't be '/'"),
        (["-v", "/:/"], "invalid volume specification: '/:/': invalid mount config for type \"bind\": invalid specification: destination can't be '/'"),
        (["-v", "vv:/a:bad"], "invalid mode: bad"),
        (["-v", "vv:/a:ro,rw"], "invalid mode: ro,rw"),
        (["-v", "vv:/a:shared"], "invalid volume specification: 'vv:/a:shared': invalid mount config for type \"volume\": field BindOptions must not be specified"),
        (["-v", "/tmp:/a:nocopy"], "invalid volume specification: '/tmp:/a:nocopy': invalid mount config for type \"bind\": field VolumeOptions must not be specified"),
        (["-v", "a/b:/a"], 'create a/b: "a/b" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'),
        (["-v", "/rel:rw"], "invalid volume specification: '/rel:rw'"),
        (["-v", "vv:/a", "--mount", "type=volume,src=vv,dst=/a"], "Duplicate mount point: /a"),
        (["-v", "vv:/a", "--tmpfs", "/a"], "Duplicate mount point: /a"),
        (["--mount", "type=bind,src=/nope,dst=/a"], 'invalid mount config for type "bind": bind source path does not exist: /nope'),
        (["--mount", "type=bind,src=rel,dst=/a"], "invalid mount config for type \"bind\": invalid mount path: 'rel' mount path must be absolute"),
        (["--mount", "type=volume,src=vv,dst=/"], "invalid mount config for type \"volume\": invalid specification: destination can't be '/'"),
        (["--mount", "type=foo,src=vv,dst=/a"], 'invalid mount config for type "foo": mount type unknown'),
        (["--mount", "type=bind,src=/tmp,dst=/a,bind-propagation=foo"], 'invalid mount config for type "bind": invalid propagation mode: foo'),
        (["--volumes-from", "no-such-container"], "No such container: no-such-container"),
        (["--mount", "type=volume,src=vv,dst=/a,volume-opt=foo=bar"], 'create vv: invalid option: "foo"'),
    ],
)  # fmt: skip
def test_refused_with_dockers_words_and_nothing_made(
    engine: Engine, volume: str, options: list[str], text: str
) -> None:
    refused = engine.docker("create", "--name", volume, *options, "busybox").failed(1)
    assert refused.err.strip() == f"Error response from daemon: {text}"
    assert engine.docker("ps", "-aq", "--filter", f"name={volume}").out == ""


# First use


def test_first_use_copies_what_the_image_has(engine: Engine, volume: str, image: str) -> None:
    show = "stat -c '%n %a %u %g %s %Y %F %h' /data /data/file /data/deep /data/deep/er /data/hard /data/pipe; readlink /data/out; cat /data/file"
    for options in (
        ["-v", f"{volume}:/data"],
        ["-v", f"{volume}:/data"],
        [],
    ):  # filled, already filled, anonymous
        out = engine.docker("run", "--rm", *options, image, "sh", "-c", show).ok().out
        times = re.sub(r"(/data|deep|er|pipe) (\d+ \d+ \d+) \d+ \d+", r"\1 \2", out)
        assert times.splitlines() == [
            "/data 2750 405 100 directory 3",
            "/data/file 4711 1 2 15 1000000000 regular file 2",
            "/data/deep 1777 0 0 directory 2",
            "/data/deep/er 600 405 0 regular file 1",
            "/data/hard 4711 1 2 15 1000000000 regular file 2",
            "/data/pipe 622 0 0 fifo 1",
            "../../../../etc/passwd",
            "from the image",
        ]
    assert (
        engine.docker("run", "--rm", "-v", f"{volume}:/elsewhere", image, "cat", "/elsewhere/file").ok().out
        == "from the image\n"
    )


def test_first_use_where_it_is_not_wanted(engine: Engine, volume: str, image: str) -> None:
    ls = ["ls", "-A", "/data"]
    assert engine.docker("run", "--rm", "-v", f"{volume}-1:/data:nocopy", image, *ls).ok().out == ""
    mount = f"type=volume,src={volume}-2,dst=/data,volume-nocopy"
    assert engine.docker("run", "--rm", "--mount", mount, image, *ls).ok().out == ""
    engine.docker("run", "--rm", "-v", f"{volume}-3:/empty", image, "touch", "/empty/mine").ok()
    assert engine.docker("run", "--rm", "-v", f"{volume}-3:/data", image, *ls).ok().out == "mine\n"


def test_first_use_through_a_symlink_stays_inside(engine: Engine, volume: str, image: str) -> None:
    """/way leads to /data; /escape, were it followed out of the image, to the host's root."""
    out = (
        engine.docker(
            "run", "--rm", "-v", f"{volume}:/way", image, "sh", "-c", "cat /data/file; ls -d /way/deep"
        )
        .ok()
        .out
    )
    assert out == "from the image\n/way/deep\n"
    engine.docker("create", "--name", volume, "-v", f"{volume}-2:/escape/etc", image).ok()
    copied = set(os.listdir(mounts_of(engine, volume)["/escape/etc"]["Source"]))
    assert "passwd" in copied and "plain-file" in copied  # the image's /etc, not the host's


def test_a_volume_over_etc_does_not_hide_hosts(engine: Engine, volume: str) -> None:
    out = (
        engine.docker(
            "run",
            "--rm",
            "-h",
            "me",
            "-v",
            f"{volume}:/etc",
            "busybox",
            "sh",
            "-c",
            "hostname; grep -c me /etc/hosts; cat /etc/plain-file",
        )
        .ok()
        .out
    )
    assert out == "me\n1\nnot a program\n"


# From other containers, and images


def test_volumes_from(engine: Engine, volume: str, tmp_path: Path) -> None:
    engine.docker(
        "create",
        "--name",
        volume,
        "-v",
        f"{volume}:/named",
        "-v",
        "/anonymous",
        "-v",
        f"{tmp_path}:/bound:ro",
        "busybox",
    ).ok()
    theirs = mounts_of(engine, volume)
    run = ["run", "--rm", "--volumes-from"]
    engine.docker(*run, volume, "busybox", "sh", "-c", "echo a >/named/f; echo b >/anonymous/f").ok()
    assert (
        engine.docker(*run, f"{volume}:ro", "busybox", "cat", "/named/f", "/anonymous/f").ok().out == "a\nb\n"
    )
    engine.docker(*run, f"{volume}:ro", "busybox", "touch", "/named/g").failed(1, "Read-only")
    engine.docker(*run, volume, "busybox", "touch", "/bound/g").failed(1, "Read-only")
    out = engine.docker(*run, volume, "-v", f"{volume}-mine:/named", "busybox", "ls", "-A", "/named").ok().out
    assert out == ""
    engine.docker("create", "--name", f"{volume}-2", "--volumes-from", volume, "busybox").ok()
    assert {k: v["Source"] for k, v in mounts_of(engine, f"{volume}-2").items()} == {
        k: v["Source"] for k, v in theirs.items()
    }
    engine.docker("rm", "-v", volume).ok()  # the other still has the anonymous one
    assert engine.docker("volume", "inspect", theirs["/anonymous"]["Name"]).code == 0
    engine.docker("rm", "-v", f"{volume}-2").ok()
    assert engine.docker("volume", "inspect", theirs["/anonymous"]["Name"]).code == 1
    for mode in ("bad", "nocopy", "slave"):
        engine.docker("create", "--volumes-from", f"{volume}:{mode}", "busybox").failed(
            1, f"invalid mode: {mode}"
        )


def test_image_mounts(wherry: Engine, volume: str, image: str) -> None:
    mount = f"type=image,src={image},dst=/img"
    out = (
        wherry.docker(
            "run",
            "--rm",
            "--mount",
            mount,
            "busybox",
            "sh",
            "-c",
            "cat /img/data/file; touch /img/x 2>&1; echo $?",
        )
        .ok()
        .out
    )
    assert out == "from the image\ntouch: /img/x: Read-only file system\n1\n"
    out = (
        wherry.docker("run", "--rm", "--mount", f"{mount},image-subpath=data/deep", "busybox", "ls", "/img")
        .ok()
        .out
    )
    assert out == "er\n"
    out = (
        wherry.docker(
            "run",
            "--rm",
            "--mount",
            f"type=image,src={image},dst=/f,image-subpath=data/file",
            "busybox",
            "cat",
            "/f",
        )
        .ok()
        .out
    )
    assert out == "from the image\n"
    wherry.docker(
        "run", "--rm", "--mount", f"{mount},image-subpath=escape/etc", "busybox", "ls", "/img"
    ).failed(125, "too many levels of symbolic links")
    wherry.docker("create", "--name", volume, "--mount", mount, "busybox").ok()
    shown = mounts_of(wherry, volume)["/img"]
    assert (shown["Type"], shown["Name"], shown["RW"]) == ("image", image, False)
    wherry.docker(
        "create", "--mount", "type=image,src=no-such-image,dst=/img", "--pull", "never", "busybox"
    ).failed(1, "No such image: no-such-image")
    before = (
        os.listdir(f"{wherry.data_root}/overlay2/containers")
        if os.path.isdir(f"{wherry.data_root}/overlay2")
        else []
    )
    wherry.docker("rm", volume).ok()
    if before:
        assert len(os.listdir(f"{wherry.data_root}/overlay2/containers")) == len(before) - 2


def test_volume_subpath(wherry: Engine, volume: str) -> None:
    fill = "mkdir -p /d/a/b; echo x >/d/a/b/f; ln -s /etc /d/evil; ln -s a /d/link; echo secret >/d/top"
    wherry.docker("run", "--rm", "-v", f"{volume}:/d", "busybox", "sh", "-c", fill).ok()

    def run(subpath: str, *command: str) -> Any:
        mount = f"type=volume,src={volume},dst=/m,volume-subpath={subpath}"
        return wherry.docker("run", "--rm", "--mount", mount, "busybox", *command)

    assert run("a/b", "sh", "-c", "ls -A /m; ls -A /m/..  | grep -c top").out == "f\n0\n"
    assert run("a/b/f", "cat", "/m").ok().out == "x\n"
    for subpath, text in (
        ("evil", "too many levels of symbolic links"),
        ("link/b", "too many levels of symbolic links"),
        ("nope", "no such file or directory"),
    ):
        where = f"{wherry.data_root}/volumes/{volume}/_data/{subpath}"
        refused = run(subpath, "ls", "/m")
        assert refused.code in (125, 127) and f"cannot access path {where}: {text}" in refused.err
    run("../x", "ls").failed(125, "subpath must be a relative path within the volume")
    wherry.docker("create", "--mount", "type=volume,dst=/m,volume-subpath=x", "busybox").failed(
        1, "must not set Subpath when using anonymous volumes"
    )


# Binds


def test_read_only_reaches_what_is_mounted_below(wherry: Engine, name: str, tmp_path: Path) -> None:
    """A container is given a directory with another mounted in it; `bind-recursive` says how far read-only goes."""
    (tmp_path / "below").mkdir()
    touch = [
        "sh",
        "-c",
        "touch /m/below/x 2>/dev/null && echo wrote; touch /m/y 2>/dev/null && echo wrote top; true",
    ]
    mount = f"type=bind,src={tmp_path},dst=/m,readonly"
    inner = os.path.join(str(tmp_path), "below")
    os.system(f"mount -t tmpfs {MARK} {inner}")
    try:
        assert wherry.docker("run", "--rm", "-v", f"{tmp_path}:/m:ro", "busybox", *touch).ok().out == ""
        assert wherry.docker("run", "--rm", "--mount", mount, "busybox", *touch).ok().out == ""
        assert (
            wherry.docker("run", "--rm", "--mount", f"{mount},bind-recursive=writable", "busybox", *touch)
            .ok()
            .out
            == "wrote\n"
        )
        assert (
            wherry.docker(
                "run",
                "--rm",
                "--mount",
                f"{mount},bind-recursive=readonly,bind-propagation=rprivate",
                "busybox",
                *touch,
            )
            .ok()
            .out
            == ""
        )
        ls = (
            wherry.docker(
                "run",
                "--rm",
                "--mount",
                f"{mount},bind-recursive=disabled",
                "busybox",
                "ls",
                "-A",
                "/m/below",
            )
            .ok()
            .out
        )
        assert ls == ""
    finally:
        os.system(f"umount {inner}")


def test_a_missing_bind_source_is_made_by_v_alone(engine: Engine, name: str, tmp_path: Path) -> None:
    missing = tmp_path / "a" / "b"
    engine.docker("run", "--rm", "-v", f"{missing}:/m", "busybox", "touch", "/m/f").ok()
    assert (missing / "f").exists()
    engine.docker(
        "create", "--name", name, "--mount", f"type=bind,src={tmp_path}/nope,dst=/m", "busybox"
    ).failed(1, f"bind source path does not exist: {tmp_path}/nope")
    assert not (tmp_path / "nope").exists()


# Local volumes that are filesystems


def test_a_tmpfs_volume_is_shared_while_it_is_used(wherry: Engine, volume: str) -> None:
    wherry.docker(
        "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=1m,uid=5", volume
    ).ok()
    with open("/proc/self/mountinfo") as file:
        before = file.read()
    wherry.docker(
        "run",
        "-d",
        "--name",
        volume,
        "-v",
        f"{volume}:/t",
        "busybox",
        "sh",
        "-c",
        "echo shared >/t/f; sleep 300",
    ).ok()
    show = "until [ -s /q/f ]; do sleep 0.05; done; cat /q/f; grep ' /q ' /proc/mounts; stat -c %u /q"
    out = wherry.docker("run", "--rm", "-v", f"{volume}:/q", "busybox", "sh", "-c", show).ok().out
    assert re.fullmatch(r"shared\ntmpfs /q tmpfs rw,relatime,size=1024k,uid=5\S* 0 0\n5\n", out)
    assert os.listdir(f"{wherry.data_root}/volumes/{volume}/_data") == []  # nothing is mounted on the host
    with open("/proc/self/mountinfo") as file:
        assert volume not in file.read().replace(before, "")
    wherry.docker("rm", "-f", volume).ok()
    assert wherry.docker("run", "--rm", "-v", f"{volume}:/t", "busybox", "ls", "-A", "/t").ok().out == ""


def test_a_bind_volume(engine: Engine, volume: str, image: str, tmp_path: Path) -> None:
    engine.docker(
        "volume", "create", "-o", "type=none", "-o", f"device={tmp_path}", "-o", "o=bind", volume
    ).ok()
    assert (
        engine.docker("run", "--rm", "-v", f"{volume}:/data", image, "cat", "/data/file").ok().out
        == "from the image\n"
    )
    assert (tmp_path / "file").read_text() == "from the image\n" and tmp_path.stat().st_uid == 405
    os.chown(tmp_path, 0, 0)
    engine.docker("volume", "rm", volume).ok()
    assert (tmp_path / "file").exists()


def test_a_filesystem_that_cannot_be_mounted(engine: Engine, volume: str) -> None:
    for kind, device, o, text in (
        ("none", "/nope", "bind", "mount /nope:WHERE, flags: 0x1000: no such file or directory"),
        (
            "nosuchfs",
            "dev",
            "ro,colour=blue",
            "mount dev:WHERE, flags: 0x1, data: colour=blue: no such device",
        ),
    ):
        name = f"{volume}-{kind}"
        engine.docker(
            "volume", "create", "-o", f"type={kind}", "-o", f"device={device}", "-o", f"o={o}", name
        ).ok()
        where = json.loads(engine.docker("volume", "inspect", name).ok().out)[0]["Mountpoint"]
        refused = engine.docker("run", "--rm", "-v", f"{name}:/x", "busybox", "true")
        assert refused.code in (125, 127)
        assert (
            f"error while mounting volume '{where}': failed to mount local volume: {text.replace('WHERE', where)}"
            in refused.err
        )


def test_the_same_name_with_other_options(wherry: Engine, volume: str) -> None:
    wherry.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", volume).ok()
    wherry.docker("volume", "create", "-o", "type=none", "-o", "device=/srv", "-o", "o=bind", volume).failed(
        1,
        f"create {volume}: volume '{volume}' exists with other options (device=tmpfs, type=tmpfs) than asked for",
    )
    assert wherry.docker("volume", "create", volume).ok().line == volume


# Events, disk usage, docker-py, compose's way


def test_events(engine: Engine, volume: str) -> None:
    since = str(time.time())
    container = (
        engine.docker("run", "-d", "--name", volume, "-v", f"{volume}:/d:ro", "busybox", "true").ok().line
    )
    engine.docker("wait", volume).ok()
    engine.docker("rm", volume).ok()
    engine.docker("volume", "rm", volume).ok()
    lines = (
        engine.docker(
            "events",
            "--since",
            since,
            "--until",
            str(time.time() + 0.1),
            "--filter",
            "type=volume",
            "--format",
            "{{json .}}",
        )
        .ok()
        .out
    )
    seen = [json.loads(line) for line in lines.splitlines()]
    mine = [event for event in seen if event["Actor"]["ID"] == volume]
    assert [event["Action"] for event in mine][::3] == ["create", "destroy"]
    assert {event["Action"] for event in mine} == {"create", "mount", "unmount", "destroy"}
    attributes = {event["Action"]: event["Actor"]["Attributes"] for event in mine}
    assert attributes["create"] == {"driver": "local"} == attributes["destroy"]
    assert attributes["mount"] == {
        "container": container,
        "destination": "/d",
        "driver": "local",
        "propagation": "",
        "read/write": "false",
    }
    assert attributes["unmount"] == {"container": container, "driver": "local"}


def test_disk_usage(engine: Engine, volume: str) -> None:
    engine.docker(
        "run", "--name", volume, "-v", f"{volume}:/d", "busybox", "sh", "-c", "head -c 5000 /dev/zero >/d/f"
    ).ok()
    engine.docker("volume", "create", f"{volume}-idle").ok()
    usage = engine.api("GET", "/v1.43/system/df" if engine.is_wherry else "/system/df").expect(200).json
    found = {v["Name"]: v["UsageData"] for v in usage["Volumes"]}
    assert (
        found[volume]["Size"] in (5000, 9096) and found[volume]["RefCount"] == 1
    )  # with or without the directory's own
    assert found[f"{volume}-idle"]["RefCount"] == 0
    assert set(usage) >= {"LayersSize", "Images", "Containers", "Volumes", "BuildCache"}
    assert "Local Volumes" in engine.docker("system", "df").ok().out
    shown = engine.docker("system", "df", "-v").ok().out
    assert re.search(rf"{volume} +1 +\S+", shown)


def test_disk_usage_by_type(wherry: Engine) -> None:
    usage = wherry.api("GET", "/system/df", type="volume").expect(200).json
    assert usage["Volumes"] is not None and usage["Images"] is None and usage["Containers"] is None
    assert wherry.api("GET", "/system/df", type="what").expect(400).message == "unknown object type: what"


def test_docker_py(sdk: Any, engine: Engine, volume: str) -> None:
    made = sdk.volumes.create(name=volume, driver="local", labels={"k": "v"})
    assert made.attrs["Labels"] == {"k": "v"} and sdk.volumes.get(volume).id == volume
    out = sdk.containers.run(
        "busybox",
        ["sh", "-c", "echo hi >/d/f; cat /d/f"],
        volumes={volume: {"bind": "/d", "mode": "rw"}},
        remove=True,
    )
    assert out == b"hi\n"
    mount = docker.types.Mount("/m", volume, type="volume", read_only=True, no_copy=True)
    assert sdk.containers.run("busybox", ["cat", "/m/f"], mounts=[mount], remove=True) == b"hi\n"
    assert volume in [each.name for each in sdk.volumes.list(filters={"label": "k=v"})]
    made.remove()
    with pytest.raises(docker.errors.NotFound):
        sdk.volumes.get(volume)


def test_a_thousand_volumes_are_listed(other: Callable[..., Wherry]) -> None:
    daemon = other(image=False)
    for number in range(1000):
        daemon.api("POST", "/volumes/create", {"Name": f"v{number}"}).expect(201)
    listed = daemon.api("GET", "/volumes", filters={"driver": ["local"]}).expect(200).json["Volumes"]
    assert len(listed) == 1000
    assert len(local_volumes(daemon)) == 1000
    assert (
        len(
            daemon.api("POST", "/volumes/prune", filters={"all": ["true"]}).expect(200).json["VolumesDeleted"]
        )
        == 1000
    )


# After the daemon's death


def test_everything_is_there_after_kill_9(other: Callable[..., Wherry]) -> None:
    daemon = other()
    daemon.docker("volume", "create", "--label", "a=b", "named").ok()
    daemon.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "scratch").ok()
    daemon.docker(
        "run",
        "-d",
        "--name",
        "cc",
        "-v",
        "named:/d",
        "-v",
        "scratch:/s",
        "-v",
        "/a",
        "busybox",
        "sh",
        "-c",
        "echo 1 >/d/f; echo 2 >/s/f; sleep 300",
    ).ok()
    daemon.kill()
    daemon.start()
    assert daemon.docker("exec", "cc", "cat", "/d/f", "/s/f").ok().out == "1\n2\n"
    assert json.loads(daemon.docker("volume", "inspect", "named").ok().out)[0]["Labels"] == {"a": "b"}
    daemon.docker("volume", "rm", "named").failed(1, "volume is in use")
    assert daemon.docker("run", "--rm", "-v", "scratch:/s", "busybox", "cat", "/s/f").ok().out == "2\n"
    daemon.docker("rm", "-f", "-v", "cc").ok()
    assert local_volumes(daemon) == {"named", "scratch"}
    assert daemon.docker("run", "--rm", "-v", "named:/d", "busybox", "cat", "/d/f").ok().out == "1\n"


# Plugins


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Plugin]:
    """A plugin of a name of its own."""
    with installed_plugin(MARK, str(tmp_path / "nas")) as plugin:
        yield plugin


def test_a_volume_plugin(engine: Engine, volume: str, plugin: Plugin, image: str) -> None:
    engine.docker("volume", "create", "-d", MARK, "-o", "size=1g", volume).ok()
    assert plugin.options[volume] == {"size": "1g"}
    (found,) = json.loads(engine.docker("volume", "inspect", volume).ok().out)
    assert (found["Driver"], found["Scope"], found["Status"]) == (MARK, "global", {"Health": "good"})
    out = engine.docker("run", "--rm", "-v", f"{volume}:/data", image, "cat", "/data/file").ok().out
    assert out == "from the image\n" and plugin.mounted[volume] == set()
    assert (Path(plugin.directory) / volume / "file").read_text() == "from the image\n"
    engine.docker("run", "-d", "--name", volume, "-v", f"{volume}:/d", "busybox", "sleep", "300").ok()
    assert len(plugin.mounted[volume]) == 1
    assert mounts_of(engine, volume)["/d"]["Driver"] == MARK
    engine.docker("rm", "-f", volume).ok()
    assert plugin.mounted[volume] == set()
    engine.docker(
        "run", "--rm", "--volume-driver", MARK, "-v", f"{volume}-2:/d", "busybox", "touch", "/d/f"
    ).ok()
    assert set(plugin.options) == {volume, f"{volume}-2"}
    listed = (
        engine.docker("volume", "ls", "-f", f"driver={MARK}", "--format", "{{.Driver}} {{.Name}}").ok().out
    )
    assert listed == f"{MARK} {volume}\n{MARK} {volume}-2\n"
    engine.docker("volume", "rm", volume, f"{volume}-2").ok()
    assert plugin.options == {}


def test_a_plugin_that_refuses(engine: Engine, volume: str, plugin: Plugin) -> None:
    plugin.answers["VolumeDriver.Create"] = (200, b'{"Err": "disk on fire"}')
    engine.docker("volume", "create", "-d", MARK, volume).failed(1, f"create {volume}: disk on fire")
    plugin.answers.clear()
    engine.docker("volume", "create", "-d", MARK, volume).ok()
    plugin.answers["VolumeDriver.Mount"] = (200, b'{"Err": "disk on fire"}')
    refused = engine.docker("run", "--rm", "-v", f"{volume}:/d", "busybox", "true")
    assert refused.code == 125 and "disk on fire" in refused.err
    plugin.answers.clear()
    engine.docker("volume", "rm", volume).ok()


def test_a_plugin_that_hangs_holds_nobody_else(wherry: Engine, volume: str, plugin: Plugin) -> None:
    wherry.docker("volume", "create", "-d", MARK, volume).ok()
    plugin.silent.add("VolumeDriver.Get")
    answer = wherry.api("GET", f"/volumes/{volume}").expect(503)
    assert "did not answer within 10 s" in answer.message
    wherry.docker("run", "--rm", "-v", f"{volume}-local:/d", "busybox", "true").ok()
    plugin.silent.clear()
    plugin.released.set()
    wherry.docker("volume", "rm", volume).ok()


# Ours: mounts of containers that exist


def test_mount_add_and_rm(wherry: Engine, cli: Client, volume: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("host\n")
    wherry.docker("run", "-d", "--name", volume, "busybox", "sleep", "300").ok()
    added = cli.docker("mount", "add", volume, f"{tmp_path}:/new/place:ro", f"{volume}:/vol").ok().out
    assert added == "/new/place\n/vol\n"
    out = (
        wherry.docker(
            "exec",
            volume,
            "sh",
            "-c",
            "cat /new/place/f; touch /new/place/x 2>/dev/null || echo ro; echo v >/vol/f",
        )
        .ok()
        .out
    )
    assert out == "host\nro\n"
    shown = mounts_of(wherry, volume)
    assert (shown["/new/place"]["Source"], shown["/new/place"]["RW"], shown["/vol"]["Name"]) == (
        str(tmp_path),
        False,
        volume,
    )
    wherry.docker("volume", "rm", volume).failed(1, "volume is in use")
    wherry.docker("restart", "-t", "0", volume).ok()
    assert wherry.docker("exec", volume, "cat", "/new/place/f", "/vol/f").ok().out == "host\nv\n"
    wherry.docker("exec", "-d", "-w", "/vol", volume, "sleep", "300").ok()
    cli.docker("mount", "rm", volume, "/vol").failed(
        1, "cannot unmount /vol: it is in use by the container: use force"
    )
    cli.docker("mount", "rm", "-f", volume, "/vol").ok()
    assert cli.docker("mount", "rm", volume, f"{tmp_path}:/new/place").ok().line == "/new/place"
    assert (
        wherry.docker("exec", volume, "ls", "-A", "/vol", "/new/place").ok().out == "/new/place:\n\n/vol:\n"
    )
    assert mounts_of(wherry, volume) == {}
    wherry.docker("restart", "-t", "0", volume).ok()
    assert wherry.docker("exec", volume, "ls", "-A", "/vol").ok().out == ""
    wherry.docker("volume", "rm", volume).ok()


def test_mount_add_files_and_stopped_containers(
    wherry: Engine, cli: Client, volume: str, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("host\n")
    wherry.docker(
        "create", "--name", volume, "-v", f"{tmp_path}:/from-the-start", "busybox", "sleep", "300"
    ).ok()
    cli.docker("mount", "add", volume, f"{tmp_path}/f:/etc/plain-file").ok()
    wherry.docker("start", volume).ok()
    assert wherry.docker("exec", volume, "cat", "/etc/plain-file").ok().out == "host\n"
    cli.docker("mount", "add", volume, f"{tmp_path}/f:/etc/group").ok()
    assert wherry.docker("exec", volume, "cat", "/etc/group").ok().out == "host\n"
    cli.docker("mount", "rm", volume, "/etc/group", "/from-the-start").ok()
    assert "root" in wherry.docker("exec", volume, "cat", "/etc/group").ok().out
    host = json.loads(wherry.docker("inspect", "-f", "{{json .HostConfig.Binds}}", volume).ok().out)
    assert host == [] and set(mounts_of(wherry, volume)) == {"/etc/plain-file"}
    wherry.docker("pause", volume).ok()
    cli.docker("mount", "add", volume, f"{tmp_path}:/while/paused").ok()
    wherry.docker("unpause", volume).ok()
    assert wherry.docker("exec", volume, "cat", "/while/paused/f").ok().out == "host\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/nope:/x"], "bind source path does not exist: /nope"),
        (["/tmp:/"], "destination can't be '/'"),
        (["/tmp:/proc/x"], 'mount destination "/proc/x" cannot be mounted because it is inside /proc'),
        (["/tmp:x"], "mount path must be absolute"),
        (["a:/x"], "volume name is too short"),
        (["type=tmpfs,dst=/x"], "a mount of type 'tmpfs' cannot be added"),
        (["type=volume,dst=/x"], "field Source must not be empty"),
        (["/tmp:/taken"], "Duplicate mount point: /taken"),
    ],
)
def test_mount_add_refused(wherry: Engine, cli: Client, volume: str, arguments: list[str], text: str) -> None:
    wherry.docker("run", "-d", "--name", volume, "--tmpfs", "/taken", "busybox", "sleep", "300").ok()
    cli.docker("mount", "add", volume, *arguments).failed(1, text)
    assert mounts_of(wherry, volume) == {}
    cli.docker("mount", "add", volume, "no-colon").failed(125, "use SOURCE:TARGET or SOURCE:TARGET:ro")
    cli.docker("mount", "rm", volume, "/nothing").failed(
        1, f"no bind or volume is mounted at /nothing in container {volume}"
    )
    cli.docker("mount", "add", f"{volume}-nope", "/tmp:/x").failed(1, "No such container")


def test_mount_add_stays_inside_a_hostile_container(
    wherry: Engine, cli: Client, volume: str, tmp_path: Path
) -> None:
    """The target's path is the container's to make: symlinks lead nowhere but into its own root."""
    victim = tmp_path / "victim"
    victim.mkdir()
    wherry.docker(
        "run",
        "-d",
        "--name",
        volume,
        "busybox",
        "sh",
        "-c",
        f"ln -s {victim} /way; ln -s ../../../../.. /up; sleep 300",
    ).ok()
    wherry.docker("exec", volume, "sh", "-c", "until [ -L /up ]; do sleep 0.05; done").ok()
    (tmp_path / "gift").mkdir()
    cli.docker("mount", "add", volume, f"{tmp_path}/gift:/way/in").ok()
    cli.docker("mount", "add", volume, f"{tmp_path}/gift:/up/{MARK}").ok()
    assert os.listdir(victim) == [] and not os.path.exists(f"/{MARK}")
    assert (
        wherry.docker("exec", volume, "sh", "-c", f"ls -d {victim}/in; ls -d /{MARK}").ok().out
        == f"{victim}/in\n/{MARK}\n"
    )
    with open("/proc/self/mountinfo") as file:
        assert MARK not in "".join(line for line in file if f"/{MARK} " in line or "/in " in line)
    cli.docker("mount", "rm", volume, "/way/in").ok()


def test_mounts_added_survive_the_daemon(other: Callable[..., Wherry], tmp_path: Path) -> None:
    daemon = other()
    (tmp_path / "f").write_text("host\n")
    daemon.docker("run", "-d", "--name", "cc", "busybox", "sleep", "300").ok()
    daemon.api(
        "POST", "/containers/cc/mounts", {"Type": "bind", "Source": str(tmp_path), "Target": "/d"}
    ).expect(201)
    daemon.kill()
    daemon.start()
    assert daemon.docker("exec", "cc", "cat", "/d/f").ok().out == "host\n"
    daemon.api("DELETE", "/containers/cc/mounts", target="/d").expect(204)
    assert daemon.docker("exec", "cc", "ls", "-A", "/d").ok().out == ""
    daemon.api("DELETE", "/containers/cc/mounts", target="/d").expect(404)
    daemon.api("DELETE", "/containers/cc/mounts").expect(400)


# Our own command line


def test_our_own_command_line(cli: Client, wherry: Engine, volume: str) -> None:
    assert cli.docker("volume", "create", "--label", "a=b", f"{volume}-10").ok().line == f"{volume}-10"
    assert cli.docker("volume", "create", f"{volume}-9").ok().line == f"{volume}-9"
    only = ["-f", f"name={volume}"]
    assert cli.docker("volume", "ls", "-q", *only).ok().out == f"{volume}-9\n{volume}-10\n"
    for arguments in (
        ["volume", "ls", *only],
        [
            "volume",
            "ls",
            *only,
            "--format",
            '{{.Name}} {{.Labels}} {{.Scope}} {{.Mountpoint}} {{.Links}} {{.Size}} {{.Label "a"}}',
        ],
        ["volume", "ls", *only, "--format", "json"],
        ["volume", "ls", *only, "--format", "table {{.Name}}\t{{.Driver}}"],
        ["volume", "ls", *only, "--format", "raw"],
        ["volume", "inspect", f"{volume}-10"],
        ["volume", "inspect", "-f", "{{.Name}} {{.Labels}}", f"{volume}-10"],
        ["volume", "inspect", "no-such-volume"],
        ["inspect", "--type", "volume", f"{volume}-10"],
        ["volume", "rm", "no-such-volume"],
        ["volume", "rm", "-f", "no-such-volume"],
        ["volume", "create", "-o", "foo=bar", f"{volume}-x"],
        ["volume", "create", "-o", "foo", f"{volume}-x"],
        ["volume", "create", "--name", "one", "two"],
        ["volume", "prune", "-f", "--filter", "label=no-such-label"],
        ["volume", "prune", "-a", "--filter", "all=1"],
        ["volume", "ls", "-f", "foo=bar"],
    ):
        ours, theirs = cli.docker(*arguments), wherry.docker(*arguments)
        assert ours.code == theirs.code, (arguments, ours, theirs)
        assert ours.out == theirs.out, arguments
        said = [
            line for line in ours.err.splitlines() if not line.startswith("WARNING: list ")
        ]  # other runs' plugins
        assert said[:1] == theirs.err.splitlines()[:1], arguments
    declined = cli.docker("volume", "prune", input="n\n")
    assert declined.out.startswith(
        "WARNING! This will remove anonymous local volumes not used by at least one container."
    )
    assert cli.docker("volume", "rm", f"{volume}-9", f"{volume}-10").ok().out == f"{volume}-9\n{volume}-10\n"
