"""Images: what a registry, an archive or a tar holds is what a container sees, and nothing broken gets in."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable

import pytest

from tests.docker import rootfs
from tests.docker.engine import Engine
from tests.docker.registry import USER, FaultyProxy, Registry


def unique(name: str, text: str = "x") -> bytes:
    """A layer that nobody else has."""
    return rootfs.tar([("unique", f"{name} {text}".encode())])


@pytest.fixture
def base() -> bytes:
    return rootfs.busybox_tar()


# -- pull ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pack", "suffix"), [(rootfs.gz, "+gzip"), (rootfs.zst, "+zstd"), (bytes, "")])
def test_pull_layers_of_every_compression(
    engine: Engine,
    registry: Registry,
    name: str,
    clean: None,
    base: bytes,
    pack: Callable[[bytes], bytes],
    suffix: str,
) -> None:
    reference = f"{registry.address}/{name}"
    wanted = registry.put_image(name, "latest", [base, unique(name, suffix)], pack=pack, suffix=suffix)
    out = engine.docker("pull", reference).ok().out
    assert f"Digest: {wanted}" in out and f"Status: Downloaded newer image for {reference}:latest" in out
    assert engine.docker("run", "--rm", reference, "cat", "/unique").ok().out == f"{name} {suffix}"
    assert f"Status: Image is up to date for {reference}:latest" in engine.docker("pull", reference).ok().out


def test_image_id_is_the_digest_of_its_config(
    engine: Engine, registry: Registry, name: str, clean: None, base: bytes
) -> None:
    layers = [base, unique(name)]
    config = rootfs.image_config(layers)
    registry.put_image(name, "latest", layers, config=config)
    engine.docker("pull", f"{registry.address}/{name}").ok()
    image = json.loads(engine.docker("image", "inspect", f"{registry.address}/{name}").ok().out)[0]
    assert image["Id"] == rootfs.digest(config)
    assert image["RootFS"] == {"Type": "layers", "Layers": [rootfs.digest(layer) for layer in layers]}
    assert image["Size"] > 0 and image["Os"] == "linux" and image["Architecture"] == "amd64"


def test_pull_by_digest_and_run_by_every_kind_of_name(
    engine: Engine, registry: Registry, name: str, clean: None, base: bytes
) -> None:
    wanted = registry.put_image(name, "v1", [base, unique(name)])
    reference = f"{registry.address}/{name}@{wanted}"
    engine.docker("pull", reference).ok()
    image = engine.docker("image", "inspect", "-f", "{{.Id}}", reference).ok().line
    short = image.removeprefix("sha256:")
    for text in (reference, image, short, short[:12]):
        assert engine.docker("run", "--rm", text, "echo", "ok").ok().line == "ok"
    digests = engine.docker("image", "inspect", "-f", "{{json .RepoDigests}}", image).ok().line
    assert json.loads(digests) == [reference]


def test_platform_is_chosen_from_an_index(
    engine: Engine, registry: Registry, name: str, clean: None, base: bytes
) -> None:
    manifests = []
    for architecture in ("amd64", "arm64"):
        layers = [base, unique(name, architecture)]
        config = json.loads(rootfs.image_config(layers))
        config["architecture"] = architecture
        registry.put_image(name, architecture, layers, config=json.dumps(config).encode())
        manifests.append((registry.get_manifest(name, architecture), "linux", architecture))
    registry.put_index(name, "all", manifests)
    reference = f"{registry.address}/{name}:all"
    engine.docker("pull", reference).ok()
    assert engine.docker("run", "--rm", reference, "cat", "/unique").ok().out == f"{name} amd64"
    engine.docker("pull", "--platform", "linux/arm64", reference).ok()
    assert engine.docker("image", "inspect", "-f", "{{.Architecture}}", reference).ok().line == "arm64"
    engine.docker("pull", "--platform", "linux/s390x", reference).failed(
        1, "no matching manifest for linux/s390x"
    )


def test_credentials_open_a_registry(
    engine: Engine, locked_registry: Registry, name: str, clean: None, base: bytes, tmp_path: object
) -> None:
    locked_registry.put_image(name, "latest", [base, unique(name)], auth=USER)
    reference = f"{locked_registry.address}/{name}"
    engine.docker("pull", reference).failed(1, "no basic auth credentials")
    config = {"DOCKER_CONFIG": str(tmp_path)}
    user, _, password = USER.partition(":")
    login = ("login", "-u", user, "--password-stdin", locked_registry.address)
    engine.docker(*login, input="wrong", env=config).failed(1, "401 Unauthorized")
    assert "Login Succeeded" in engine.docker(*login, input=password, env=config).ok().out
    engine.docker("pull", reference, env=config).ok()
    assert (
        engine.docker("run", "--rm", "--pull", "always", reference, "echo", "in", env=config).ok().line
        == "in"
    )


@pytest.mark.parametrize("encode", ["url", "url-unpadded", "standard", "broken"])
def test_the_auth_header_in_every_spelling(
    engine: Engine, locked_registry: Registry, name: str, clean: None, base: bytes, encode: str
) -> None:
    locked_registry.put_image(name, "latest", [base, unique(name)], auth=USER)
    user, _, password = USER.partition(":")
    text = json.dumps(
        {"username": user, "password": password, "serveraddress": locked_registry.address, "x": "?>~"}
    )
    header = {
        "url": base64.urlsafe_b64encode(text.encode()).decode(),
        "url-unpadded": base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
        "standard": base64.b64encode(text.encode()).decode(),
        "broken": "!!!",
    }[encode]
    query = {"fromImage": f"{locked_registry.address}/{name}", "tag": "latest"}
    answer = engine.api("POST", "/images/create", headers={"X-Registry-Auth": header}, **query)
    if encode == "broken":  # as if there were none
        assert answer.status in (400, 401, 404, 500) and answer.message
    elif encode == "standard" and answer.status != 200:
        pytest.skip("dockerd reads the URL alphabet only")
    else:
        assert "error" not in answer.lines[-1], answer.body


def test_bearer_tokens_are_fetched(
    engine: Engine, proxy: FaultyProxy, registry: Registry, name: str, clean: None, base: bytes
) -> None:
    registry.put_image(name, "latest", [base, unique(name)])
    proxy.reset(lambda path, n: ("bearer", "let-me-in"))
    engine.docker("pull", f"{proxy.address}/{name}").ok()
    assert any(path.startswith("/token") and "repository" in path for path, _ in proxy.seen)


# -- a registry's bad days -----------------------------------------------------------------------------------------

FAULTS: dict[str, Callable[[str, int], object]] = {
    "manifest-404": lambda path, n: 404 if "/manifests/" in path else None,
    "manifest-401": lambda path, n: 401 if "/manifests/" in path else None,
    "manifest-500": lambda path, n: 500 if "/manifests/" in path else None,
    "manifest-429": lambda path, n: 429 if "/manifests/" in path else None,
    "blob-404": lambda path, n: 404 if "/blobs/" in path else None,
    "blob-500": lambda path, n: 500 if "/blobs/" in path else None,
    "blob-bytes-changed": lambda path, n: ("flip", 200) if "/blobs/" in path else None,
    "manifest-not-json": lambda path, n: ("flip", 0) if "/manifests/" in path else None,
    "always-cut": lambda path, n: ("cut", 0) if "/blobs/" in path else None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_registry_leaves_nothing_behind(
    engine: Engine, proxy: FaultyProxy, registry: Registry, name: str, clean: None, base: bytes, fault: str
) -> None:
    registry.put_image(name, "latest", [base, unique(name, fault)])
    before = engine.docker("images", "-aq", "--no-trunc").ok().out
    proxy.reset(FAULTS[fault])
    ran = engine.docker("pull", f"{proxy.address}/{name}", timeout_s=110)
    assert ran.code == 1, ran.out
    assert ran.err and "Traceback" not in ran.err
    assert engine.docker("images", "-aq", "--no-trunc").ok().out == before
    proxy.reset(lambda path, n: None)
    engine.docker("pull", f"{proxy.address}/{name}").ok()
    assert (
        engine.docker("run", "--rm", f"{proxy.address}/{name}", "cat", "/unique").ok().out
        == f"{name} {fault}"
    )


def test_a_cut_download_is_taken_up_where_it_ended(
    wherry: Engine, proxy: FaultyProxy, registry: Registry, name: str, clean: None, base: bytes
) -> None:
    noise = rootfs.tar([("noise", os.urandom(3_000_000))])
    registry.put_image(name, "latest", [base, noise])
    proxy.reset(lambda path, n: ("cut", 1_000_000) if "/blobs/" in path and n == 1 else None)
    wherry.docker("pull", f"{proxy.address}/{name}").ok()
    ranges = [headers["range"] for path, headers in proxy.seen if "range" in headers]
    assert ranges and all(r.startswith("bytes=") and not r.startswith("bytes=0-") for r in ranges), ranges


def test_a_pull_that_nobody_waits_for_ends(
    engine: Engine, proxy: FaultyProxy, registry: Registry, name: str, clean: None, base: bytes
) -> None:
    registry.put_image(name, "latest", [base, unique(name)])
    proxy.reset(lambda path, n: ("stall", 60) if "/blobs/" in path else None)
    client = engine.popen("pull", f"{proxy.address}/{name}")
    while not any("/blobs/" in path for path, _ in list(proxy.seen)):
        assert client.poll() is None
    client.kill()
    client.communicate()
    proxy.released.set()
    proxy.reset(lambda path, n: None)
    engine.docker("pull", f"{proxy.address}/{name}").ok()


def test_missing_image_is_pulled_by_run(
    engine: Engine, registry: Registry, name: str, clean: None, base: bytes
) -> None:
    registry.put_image(name, "latest", [base, unique(name)])
    reference = f"{registry.address}/{name}"
    ran = engine.docker("run", "--rm", reference, "echo", "ran").ok()
    assert ran.out == "ran\n"
    assert ran.err.startswith(f"Unable to find image '{reference}:latest' locally\n")
    assert f"Status: Downloaded newer image for {reference}:latest" in ran.err
    assert engine.docker("run", "--rm", "--pull", "never", reference, "echo", "again").ok().err == ""


def test_a_tag_that_moved_leaves_the_old_image_untagged(
    engine: Engine, registry: Registry, name: str, clean: None, base: bytes
) -> None:
    reference = f"{registry.address}/{name}"
    ids = []
    for version in ("one", "two"):
        registry.put_image(name, "latest", [base, unique(name, version)])
        engine.docker("pull", "-q", reference).ok()
        ids.append(engine.docker("image", "inspect", "-f", "{{.Id}}", reference).ok().line)
    dangling = engine.docker("images", "-q", "--no-trunc", "--filter", "dangling=true").ok().out.split()
    assert ids[0] in dangling and ids[1] not in dangling


# -- save, load, import --------------------------------------------------------------------------------------------


def test_save_and_load_keep_identity(engine: Engine, name: str, clean: None, base: bytes) -> None:
    layers = [base, unique(name)]
    engine.docker("load", input=rootfs.docker_archive(rootfs.image_config(layers), layers, f"{name}:1")).ok()
    engine.docker("tag", f"{name}:1", f"{name}:2").ok()
    before = json.loads(engine.docker("image", "inspect", f"{name}:1").ok().out)[0]
    archive = engine.docker("save", f"{name}:1", f"{name}:2").ok().raw
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert "manifest.json" in names and "index.json" in names and "oci-layout" in names
    assert sorted(manifest[0]["RepoTags"]) == [f"{name}:1", f"{name}:2"]
    engine.docker("rmi", f"{name}:1", f"{name}:2").ok()
    out = engine.docker("load", input=archive).ok().out
    assert f"Loaded image: {name}:1" in out and f"Loaded image: {name}:2" in out
    after = json.loads(engine.docker("image", "inspect", f"{name}:2").ok().out)[0]
    for key in ("Id", "RootFS", "Config", "Created", "Architecture"):
        assert after[key] == before[key], key
    assert engine.docker("run", "--rm", f"{name}:2", "cat", "/unique").ok().out == f"{name} x"


@pytest.mark.parametrize("pack", [bytes, rootfs.gz])
def test_load_of_an_oci_layout(
    wherry: Engine, name: str, clean: None, base: bytes, pack: Callable[[bytes], bytes]
) -> None:
    layers = [base, unique(name)]
    archive = rootfs.oci_layout(rootfs.image_config(layers), layers, f"docker.io/library/{name}:1")
    out = wherry.docker("load", input=pack(archive)).ok().out
    assert f"Loaded image: {name}:1" in out
    assert wherry.docker("run", "--rm", f"{name}:1", "cat", "/unique").ok().out == f"{name} x"


def test_what_is_saved_is_read_by_skopeo(
    engine: Engine, name: str, clean: None, base: bytes, tmp_path: object
) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("no skopeo on PATH")
    layers = [base, unique(name)]
    engine.docker("load", input=rootfs.docker_archive(rootfs.image_config(layers), layers, f"{name}:1")).ok()
    engine.docker("save", "-o", f"{tmp_path}/saved.tar", f"{name}:1").ok()
    for source in (f"docker-archive:{tmp_path}/saved.tar", f"oci-archive:{tmp_path}/saved.tar"):
        done = subprocess.run(["skopeo", "inspect", source], capture_output=True, check=False)
        assert done.returncode == 0, f"{source}: {done.stderr.decode()}"
        assert len(json.loads(done.stdout)["Layers"]) == 2


def test_what_skopeo_writes_is_loaded(
    engine: Engine, name: str, clean: None, base: bytes, tmp_path: object
) -> None:
    if shutil.which("skopeo") is None:
        pytest.skip("no skopeo on PATH")
    layers = [base, unique(name)]
    with open(f"{tmp_path}/in.tar", "wb") as file:
        file.write(rootfs.docker_archive(rootfs.image_config(layers), layers, f"{name}:1"))
    target = f"docker-archive:{tmp_path}/out.tar:{name}:2"
    subprocess.run(["skopeo", "copy", "-q", f"docker-archive:{tmp_path}/in.tar", target], check=True)
    engine.docker("load", "-i", f"{tmp_path}/out.tar").ok()
    assert engine.docker("run", "--rm", f"{name}:2", "cat", "/unique").ok().out == f"{name} x"


def test_import_takes_compressed_tars(engine: Engine, name: str, clean: None, base: bytes) -> None:
    packed = rootfs.gz(base)
    image = engine.docker("import", "-", name, input=packed).ok().line
    assert image.startswith("sha256:")
    assert engine.docker("run", "--rm", name, "echo", "ok").ok().line == "ok"
    layers = engine.docker("image", "inspect", "-f", '{{join .RootFS.Layers " "}}', name).ok().line
    assert layers == f"sha256:{hashlib.sha256(base).hexdigest()}"


# -- layers --------------------------------------------------------------------------------------------------------


def load(engine: Engine, name: str, *layers: bytes) -> None:
    archive = rootfs.docker_archive(rootfs.image_config(layers), layers, f"{name}:1")
    engine.docker("load", input=archive).ok()


def test_layers_hide_replace_and_add(engine: Engine, name: str, clean: None, base: bytes) -> None:
    one = rootfs.tar([("d", None), ("d/1", b"1"), ("d/2", b"2"), ("d/3", b"3"), ("o", None), ("o/old", b"")])
    two = rootfs.tar([("d/4", b"4"), ("d/5", b"5"), ("d/6", b"6")])
    three = rootfs.tar([("d/5", b"seven"), ("d/.wh.2", b""), ("o/.wh..wh..opq", b""), ("o/new", b"")])
    load(engine, name, base, one, two, three)
    script = "cd /d && for f in *; do echo $f=$(cat $f); done; ls -A /o"
    out = engine.docker("run", "--rm", f"{name}:1", "sh", "-c", script).ok().out.split()
    assert out == ["1=1", "3=3", "4=4", "5=seven", "6=6", "new"]


def test_owners_modes_times_links_and_attributes_survive(
    engine: Engine, name: str, clean: None, base: bytes
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(path: str, kind: bytes, data: bytes = b"", **fields: object) -> None:
            info = tarfile.TarInfo(path)
            info.type, info.size, info.mtime = kind, len(data), 1_000_000_000
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        add("t", tarfile.DIRTYPE, mode=0o2775, uid=1, gid=2)
        add("t/suid", tarfile.REGTYPE, b"data", mode=0o4755, uid=3, gid=4)
        add("t/hard", tarfile.LNKTYPE, linkname="t/suid", mode=0o4755, uid=3, gid=4)
        add("t/soft", tarfile.SYMTYPE, linkname="/etc/passwd", uid=5, gid=6)
        add("t/fifo", tarfile.FIFOTYPE, mode=0o600)
        add("t/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
        add("t/" + "long-" * 40, tarfile.REGTYPE, b"long")
        add("t/ünï", tarfile.REGTYPE, b"text")
        add("t/attr", tarfile.REGTYPE, b"", pax_headers={"SCHILY.xattr.user.colour": "blue"})
    load(engine, name, base, out.getvalue())
    engine.docker("create", "--name", name, f"{name}:1").ok()
    script = "cd /t && stat -c '%n %a %u %g %h %Y %F' suid hard soft fifo null . && readlink soft && ls | wc -l && echo x >null"
    lines = engine.docker("run", "--rm", f"{name}:1", "sh", "-c", script).ok().out.splitlines()
    assert lines == [
        "suid 4755 3 4 2 1000000000 regular file",
        "hard 4755 3 4 2 1000000000 regular file",
        "soft 777 5 6 1 1000000000 symbolic link",
        "fifo 600 0 0 1 1000000000 fifo",
        "null 666 0 0 1 1000000000 character special file",
        ". 2775 1 2 2 1000000000 directory",
        "/etc/passwd",
        "8",
    ]


OUTSIDE = "/var/tmp/{mark}-outside"

HOSTILE: dict[str, Callable[[str], list[rootfs.Entry]]] = {
    "dot-dot": lambda target: [("../" * 12 + target.lstrip("/"), b"broken out")],
    "absolute": lambda target: [(target, b"broken out")],
    "through-absolute-link": lambda target: [("l", f"-> {os.path.dirname(target)}"), (f"l/{os.path.basename(target)}", b"broken out")],
    "through-relative-link": lambda target: [("a", None), ("a/l", f"-> {'../' * 12}{os.path.dirname(target)[1:]}"), (f"a/l/{os.path.basename(target)}", b"broken out")],
    "dot-dot-in-the-middle": lambda target: [("a", None), (f"a/{'../' * 13}{target.lstrip('/')}", b"broken out")],
    "whiteout-outside": lambda target: [("../" * 12 + os.path.dirname(target).lstrip("/") + "/.wh.victim", b"")],
}  # fmt: skip


@pytest.mark.parametrize("how", ["load", "import", "pull"])
@pytest.mark.parametrize("trick", HOSTILE)
def test_no_tar_writes_outside_its_layer(
    engine: Engine, registry: Registry, name: str, clean: None, tmp_path: object, trick: str, how: str
) -> None:
    victim = f"{tmp_path}/victim"
    with open(victim, "w") as file:
        file.write("whole")
    layer = rootfs.tar([*HOSTILE[trick](f"{tmp_path}/planted"), ("ok", b"ok")])
    if how == "import":
        engine.docker("import", "-", name, input=layer)
    elif how == "load":
        config = rootfs.image_config([layer])
        engine.docker("load", input=rootfs.docker_archive(config, [layer], f"{name}:1"))
    else:
        registry.put_image(name, "latest", [layer])
        engine.docker("pull", f"{registry.address}/{name}")
    assert os.listdir(str(tmp_path)) == ["victim"], "a tar wrote outside its layer"
    assert open(victim).read() == "whole"


def test_hard_link_out_of_the_layer_is_refused(
    wherry: Engine, name: str, clean: None, tmp_path: object
) -> None:
    with open(f"{tmp_path}/secret", "w") as file:
        file.write("secret")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("stolen")
        info.type, info.linkname = tarfile.LNKTYPE, "../" * 12 + f"{tmp_path}/secret"[1:]
        tar.addfile(info)
    wherry.docker("import", "-", name, input=out.getvalue()).failed(1)
    assert os.stat(f"{tmp_path}/secret").st_nlink == 1


BROKEN: dict[str, Callable[[bytes, bytes], bytes]] = {
    "config-lies-about-layer": lambda config, layer: rootfs.docker_archive(config.replace(b'"sha256:', b'"sha256:00', 1)[:-0 or None], [layer], "x/broken:1"),
    "layer-is-missing": lambda config, layer: rootfs.docker_archive(config, [], "x/broken:1"),
    "layer-is-no-tar": lambda config, layer: rootfs.docker_archive(config, [b"no tar at all" * 100], "x/broken:1"),
    "layer-is-another": lambda config, layer: rootfs.docker_archive(config, [rootfs.tar([("other", b"")])], "x/broken:1"),
    "config-is-no-json": lambda config, layer: rootfs.docker_archive(b"{", [layer], "x/broken:1"),
    "manifest-is-no-json": lambda config, layer: rootfs.tar([("manifest.json", b"[{")]),
    "manifest-is-no-list": lambda config, layer: rootfs.tar([("manifest.json", b"{}")]),
    "tag-is-no-reference": lambda config, layer: rootfs.docker_archive(config, [layer], "UPPER CASE"),
    "cut-short": lambda config, layer: rootfs.docker_archive(config, [layer], "x/broken:1")[:-30_000],
    "not-an-archive": lambda config, layer: b"what is this? " * 100,
    "empty": lambda config, layer: b"",
    "bad-gzip": lambda config, layer: rootfs.gz(rootfs.docker_archive(config, [layer], "x/broken:1"))[:-2000],
}  # fmt: skip


@pytest.mark.parametrize("flaw", BROKEN)
def test_a_broken_archive_is_refused_whole(
    wherry: Engine, name: str, clean: None, base: bytes, flaw: str
) -> None:
    before = wherry.docker("images", "-aq", "--no-trunc").ok().out
    layer = rootfs.tar(
        [("flaw", os.urandom(40_000))]
    )  # one that is not there yet: what is there is not read again
    archive = BROKEN[flaw](rootfs.image_config([layer]), layer)
    answer = wherry.api(
        "POST", "/images/load", archive, headers={"Content-Type": "application/x-tar"}, quiet=1
    )
    failed = answer.status >= 400 or any("error" in line for line in answer.lines)
    assert failed, answer.body
    assert b"Traceback" not in answer.body
    assert wherry.docker("images", "-aq", "--no-trunc").ok().out == before


# -- what is kept, and for how long --------------------------------------------------------------------------------


def test_layers_are_stored_once_and_go_with_their_last_image(
    wherry: Engine, name: str, clean: None, base: bytes
) -> None:
    layer = unique(name)
    for tag in ("a", "b"):
        layers = [base, layer] + ([unique(name, "top")] if tag == "b" else [])
        config = rootfs.image_config(layers)
        wherry.docker("load", input=rootfs.docker_archive(config, layers, f"{name}:{tag}")).ok()
    first = wherry.docker("rmi", f"{name}:a").ok().out
    assert first.startswith(f"Untagged: {name}:a\nDeleted: sha256:")
    assert wherry.docker("run", "--rm", f"{name}:b", "cat", "/unique").ok().out == f"{name} top"
    wherry.docker("rmi", f"{name}:b").ok()
    wherry.docker("image", "inspect", f"{name}:b").failed(1)


def test_an_image_in_use_stays(engine: Engine, name: str, clean: None, base: bytes) -> None:
    load(engine, name, base, unique(name))
    engine.docker("run", "-d", "--name", name, f"{name}:1", "sleep", "300").ok()
    image = engine.docker("image", "inspect", "-f", "{{.Id}}", f"{name}:1").ok().line
    engine.docker("rmi", f"{name}:1").failed(
        1, "conflict: unable to remove repository reference", "(must force)"
    )
    engine.docker("rmi", "-f", image).failed(
        1, "cannot be forced", "image is being used by running container"
    )
    engine.docker("rm", "-f", name).ok()
    engine.docker("rmi", f"{name}:1").ok()


def test_rmi_takes_a_list_with_the_same_image_twice(
    engine: Engine, name: str, clean: None, base: bytes
) -> None:
    load(engine, name, base, unique(name))
    engine.docker("tag", f"{name}:1", f"{name}:2").ok()
    image = engine.docker("image", "inspect", "-f", "{{.Id}}", f"{name}:1").ok().line
    engine.docker("rmi", image).failed(1, "image is referenced in multiple repositories", "(must be forced)")
    out = engine.docker("rmi", f"{name}:1", f"{name}:2").ok().out
    assert "Untagged" in out and "Deleted" in out


def test_image_filters(engine: Engine, name: str, clean: None, base: bytes) -> None:
    def listed(*filters: str) -> set[str]:
        options = [part for text in filters for part in ("--filter", text)]
        lines = engine.docker("images", *options, "--format", "{{.Repository}}:{{.Tag}}").ok().out.split()
        return {line for line in lines if line.startswith(name)}

    for n, labels in ((1, {"a": "1"}), (2, {"a": "2", "b": "x"})):
        layers = [base, unique(name, str(n))]
        config = json.loads(rootfs.image_config(layers, Labels=labels))
        config["created"] = f"202{n}-01-01T00:00:00Z"
        engine.docker(
            "load", input=rootfs.docker_archive(json.dumps(config).encode(), layers, f"{name}:{n}")
        ).ok()
    assert listed() == {f"{name}:1", f"{name}:2"}
    assert listed("label=a") == {f"{name}:1", f"{name}:2"}
    assert listed("label=a=2", "label=b") == {f"{name}:2"}
    assert listed(f"before={name}:2") == {f"{name}:1"}
    assert listed(f"since={name}:1") == {f"{name}:2"}
    assert listed(f"reference={name}:*2") == {f"{name}:2"}
    assert listed("dangling=true") == set()


def test_history_tells_of_each_layer(engine: Engine, name: str, clean: None, base: bytes) -> None:
    load(engine, name, base, unique(name))
    lines = engine.docker("history", "--format", "{{.ID}} {{.CreatedBy}}", f"{name}:1").ok().out.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["layer 1", "layer 0"]
    assert lines[1].startswith("<missing>") and not lines[0].startswith("<missing>")


def test_a_running_container_does_not_mind_its_tag_going_elsewhere(
    engine: Engine, name: str, clean: None, base: bytes
) -> None:
    load(engine, name, base, unique(name, "old"))
    engine.docker("run", "-d", "--name", name, f"{name}:1", "sleep", "300").ok()
    load(engine, name, base, unique(name, "new"))
    assert engine.docker("exec", name, "cat", "/unique").ok().out == f"{name} old"
    assert engine.docker("run", "--rm", f"{name}:1", "cat", "/unique").ok().out == f"{name} new"
    shown = engine.docker("ps", "--filter", f"name={name}", "--format", "{{.Image}}").ok().line
    assert shown != f"{name}:1"  # the tag is another image's now: the id is shown
