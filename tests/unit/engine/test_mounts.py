"""What -v, --mount and --tmpfs ask for."""

from __future__ import annotations

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine.mounts import from_bind, mounts_for, read_volumes_from
from wherry.engine.records import MountSpec
from wherry.errors import InvalidParameter
from wherry.model.containers import HostConfig
from wherry.model.wire import decode


def mounts(body: str) -> tuple[MountSpec, ...]:
    return mounts_for(decode(body.encode(), HostConfig))


@pytest.mark.parametrize(
    ("bind", "options", "read_only"),
    [
        ("/a:/b", ("rbind", "rprivate"), False),
        ("/a:/b:ro", ("rbind", "rro", "rprivate"), True),
        ("/a:/b:rw,rslave", ("rbind", "rslave"), False),
        ("/a:/b:z", ("rbind", "rprivate"), False),
        ("/a:/b:ro,shared", ("rbind", "rro", "shared"), True),
    ],
)
def test_bind(bind: str, options: tuple[str, ...], read_only: bool) -> None:
    (mount,) = mounts(f'{{"Binds":["{bind}"]}}')
    assert (mount.type, mount.source, mount.target) == ("bind", "/a", "/b")
    assert (mount.options, mount.read_only, mount.create_source) == (options, read_only, True)


def test_paths_are_cleaned_and_parents_come_first() -> None:
    found = mounts('{"Binds":["/s/./x/../y:/a/b/","/t:/a"],"Tmpfs":{"/a/b/c/d":""}}')
    assert [(m.source, m.target) for m in found] == [("/t", "/a"), ("/s/y", "/a/b"), ("", "/a/b/c/d")]


def test_mount_api() -> None:
    (mount,) = mounts(
        '{"Mounts":[{"Type":"bind","Source":"/s","Target":"/t","ReadOnly":true,'
        '"BindOptions":{"Propagation":"rslave","NonRecursive":true}}]}'
    )
    assert mount.options == ("bind", "ro", "rslave") and not mount.create_source and mount.is_mount_api
    (mount,) = mounts(
        '{"Mounts":[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":4096,"Mode":448}}]}'
    )
    assert mount.options == ("noexec", "nosuid", "nodev", "mode=700", "size=4096")


def test_tmpfs_options_override_the_defaults() -> None:
    (mount,) = mounts('{"Tmpfs":{"/t":"exec,size=1m,ro"}}')
    assert mount.options == ("nosuid", "nodev", "rprivate", "exec", "size=1m", "ro") and mount.read_only


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"Binds":[""]}', "invalid volume specification: ''"),
        ('{"Binds":[":/b"]}', "invalid volume specification: ':/b'"),
        ('{"Binds":["/a:rw"]}', "invalid volume specification: '/a:rw'"),
        ('{"Binds":["data:/b:shared"]}', "field BindOptions must not be specified"),
        ('{"Binds":["/a:/b:nocopy"]}', "field VolumeOptions must not be specified"),
        ('{"Binds":["/a:/b:ro,ro"]}', "invalid mode: ro,ro"),
        ('{"Binds":["/a:/b:z,Z"]}', "invalid mode: z,Z"),
        ('{"Binds":["/a:/b:ro,"]}', "invalid mode: ro,"),
        ('{"Binds":["/a:/b:c:d"]}', "invalid volume specification"),
        ('{"Binds":["/a:/b:what"]}', "invalid mode: what"),
        ('{"Binds":["/a:/b:ro,rw"]}', "invalid mode: ro,rw"),
        ('{"Binds":["/a:b"]}', "mount path must be absolute"),
        ('{"Binds":["/a:/"]}', "destination can't be '/'"),
        ('{"Binds":["/a:/b/.."]}', "destination can't be '/'"),
        ('{"Binds":["/a:/b","/c:/b"]}', "Duplicate mount point: /b"),
        ('{"Mounts":[{"Type":"bind","Source":"/s"}]}', "field Target must not be empty"),
        ('{"Mounts":[{"Type":"bind","Target":"/t"}]}', "field Source must not be empty"),
        ('{"Mounts":[{"Type":"bind","Source":"s","Target":"/t"}]}', "mount path must be absolute"),
        ('{"Mounts":[{"Type":"what","Source":"/s","Target":"/t"}]}', "mount type unknown"),
        ('{"Mounts":[{"Type":"tmpfs","Source":"/s","Target":"/t"}]}', "field Source must not be specified"),
        ('{"Mounts":[{"Source":"/s","Target":"/t"}]}', 'type "": mount type unknown'),
        ('{"Mounts":[{"Type":"tmpfs","Target":"/t","BindOptions":{}}]}', "field BindOptions must not"),
        (
            '{"Mounts":[{"Type":"bind","Source":"/s","Target":"/t","VolumeOptions":{}}]}',
            "field VolumeOptions",
        ),
        ('{"Mounts":[{"Type":"volume","Target":"/t","TmpfsOptions":{}}]}', "field TmpfsOptions"),
        ('{"Mounts":[{"Type":"volume","Target":"/t","ImageOptions":{}}]}', "field ImageOptions"),
        (
            '{"Mounts":[{"Type":"volume","Target":"t"}]}',
            "invalid mount path: 't' mount path must be absolute",
        ),
        (
            '{"Mounts":[{"Type":"volume","Target":"/t","VolumeOptions":{"Subpath":"x"}}]}',
            "must not set Subpath when using anonymous volumes",
        ),
        (
            '{"Mounts":[{"Type":"volume","Source":"v","Target":"/t","VolumeOptions":{"Subpath":"a/../../x"}}]}',
            "subpath must be a relative path within the volume",
        ),
        (
            '{"Mounts":[{"Type":"image","Source":"v","Target":"/t","ImageOptions":{"Subpath":"/x"}}]}',
            "subpath must be a relative path within the volume",
        ),
        ('{"Mounts":[{"Type":"image","Target":"/t"}]}', "field Source must not be empty"),
        (
            '{"Mounts":[{"Type":"bind","Source":"/s","Target":"/t","BindOptions":{"ReadOnlyNonRecursive":true}}]}',
            "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive",
        ),
        (
            '{"Mounts":[{"Type":"bind","Source":"/s","Target":"/t","ReadOnly":true,"BindOptions":'
            '{"ReadOnlyNonRecursive":true,"ReadOnlyForceRecursive":true}}]}',
            "mount options conflict",
        ),
        (
            '{"Mounts":[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"Options":[["suid"]]}}]}',
            "invalid option: suid",
        ),
        ('{"VolumesFrom":[""]}', "volumes-from specification cannot be an empty string"),
        ('{"VolumesFrom":["c:slave"]}', "invalid mode: slave"),
        ('{"VolumesFrom":["c:nocopy"]}', "invalid mode: nocopy"),
        ('{"Tmpfs":{"/":""}}', "destination can't be '/'"),
        ('{"Tmpfs":{"/t":"what"}}', "invalid tmpfs option"),
        ('{"Tmpfs":{"t":""}}', "mount path must be absolute"),
    ],
)
def test_refused(body: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        mounts(body)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("bind", "name", "mode", "read_only", "copies_up", "is_anonymous"),
    [
        ("data:/b", "data", "", False, True, False),
        ("data:/b:ro", "data", "ro", True, True, False),
        ("data:/b:nocopy,z", "data", "nocopy,z", False, False, False),
        ("/b", "", "", False, True, True),
        ("a/b:/b", "a/b", "", False, True, False),  # the driver knows which names it can have
    ],
)
def test_volume(
    bind: str, name: str, mode: str, read_only: bool, copies_up: bool, is_anonymous: bool
) -> None:
    (mount,) = mounts(f'{{"Binds":["{bind}"],"VolumeDriver":"nas"}}')
    assert (mount.type, mount.name, mount.target, mount.driver) == ("volume", name, "/b", "nas")
    assert (mount.mode, mount.read_only, mount.copies_up, mount.is_anonymous) == (
        mode,
        read_only,
        copies_up,
        is_anonymous,
    )


def test_volume_by_mount() -> None:
    (mount,) = mounts(
        '{"Mounts":[{"Type":"volume","Source":"v","Target":"/t","ReadOnly":true,"VolumeOptions":{"NoCopy":true,'
        '"Subpath":"a/b","Labels":{"k":"v"},"DriverConfig":{"Name":"nas","Options":{"o":"p"}}}}]}'
    )
    assert (mount.name, mount.driver, mount.driver_options, mount.labels) == (
        "v",
        "nas",
        {"o": "p"},
        {"k": "v"},
    )
    assert mount.subpath == "a/b" and mount.read_only and not mount.copies_up and mount.is_mount_api


def test_an_image_is_read_only() -> None:
    (mount,) = mounts('{"Mounts":[{"Type":"image","Source":"web","Target":"/t"}]}')
    assert (mount.type, mount.name, mount.read_only, mount.options) == (
        "image",
        "web",
        True,
        ("ro", "rprivate"),
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{}", ("rbind", "rro", "rprivate")),
        ('{"ReadOnlyNonRecursive":true}', ("rbind", "ro", "rprivate")),
        ('{"ReadOnlyForceRecursive":true}', ("rbind", "rro", "rprivate")),
        ('{"NonRecursive":true}', ("bind", "ro", "rprivate")),
        ('{"Propagation":"rshared"}', ("rbind", "rro", "rshared")),
    ],
)
def test_read_only_with_or_without_what_is_mounted_below(options: str, expected: tuple[str, ...]) -> None:
    (mount,) = mounts(
        '{"Mounts":[{"Type":"bind","Source":"/s","Target":"/t","ReadOnly":true,"BindOptions":%s}]}' % options
    )
    assert mount.options == expected


def test_what_an_image_declares_gives_way_to_what_is_asked_for() -> None:
    host = decode(b'{"Binds":["data:/a"],"Tmpfs":{"/b":""}}', HostConfig)
    found = {mount.target: mount for mount in mounts_for(host, ["/a/", "/b", "/c/./d"])}
    assert set(found) == {"/a", "/b", "/c/d"}
    assert found["/a"].name == "data" and found["/b"].type == "tmpfs"
    (odd,) = mounts_for(HostConfig(), ["a:b"])
    assert (odd.type, odd.target, odd.is_anonymous) == ("volume", "/a:b", True)
    with pytest.raises(InvalidParameter, match="destination can't be '/'"):
        mounts_for(HostConfig(), ["/"])
    assert found["/c/d"].is_anonymous and found["/c/d"].is_declared


def test_volumes_from() -> None:
    theirs = (
        from_bind("data:/d"),
        from_bind("/srv:/s:ro"),
        MountSpec(
            type="volume",
            name="f" * 64,
            target="/anonymous",
            is_anonymous=True,
            options=("rbind", "rprivate"),
        ),
    )
    host = decode(b'{"VolumesFrom":["other:ro"],"Binds":["mine:/d"]}', HostConfig)
    found = {mount.target: mount for mount in mounts_for(host, mounts_of=lambda _: theirs)}
    assert found["/d"].name == "mine" and not found["/d"].read_only
    assert found["/s"].options == ("rbind", "rro", "rprivate")
    inherited = found["/anonymous"]
    assert inherited.read_only and inherited.is_anonymous and not inherited.copies_up
    assert inherited.options == ("rbind", "rro", "rprivate")
    assert read_volumes_from("c:ro,z") == ("c", "ro,z") and read_volumes_from("c") == ("c", "rw")


WORDS = st.sampled_from(
    [
        "ro",
        "rw",
        "z",
        "Z",
        "nocopy",
        "rslave",
        "shared",
        "cached",
        "",
        "RO",
        "/",
        "..",
        "data",
        "/a",
        "a/../..",
        "x",
    ]
)
SPECS = st.lists(st.one_of(WORDS, st.text(alphabet="/.:,ab\\ é\n", max_size=12)), max_size=5).map(":".join)


@given(SPECS)
def test_a_bind_is_refused_or_has_a_clean_place_inside(spec: str) -> None:
    """Whatever is written: InvalidParameter that names it, or a target that is absolute, normal, and not the root."""
    try:
        mount = from_bind(spec)
    except InvalidParameter as refused:
        assert spec in str(refused) or "invalid mode: " in str(refused)
        return
    assert mount.target.startswith("/") and mount.target != "/"
    assert mount.target == posixpath.normpath(mount.target) and ".." not in mount.target.split("/")
    assert mount.type == ("bind" if mount.source else "volume")
    if mount.type == "bind":
        assert mount.source == posixpath.normpath(mount.source)
    assert spec.count(":") <= 2
    assert from_bind(":".join(filter(None, [mount.source or mount.name, mount.target, mount.mode]))) == mount


@given(st.text(alphabet="/.ab", max_size=12))
def test_a_subpath_stays_within(subpath: str) -> None:
    body = (
        '{"Mounts":[{"Type":"volume","Source":"v","Target":"/t","VolumeOptions":{"Subpath":"%s"}}]}' % subpath
    )
    inside = posixpath.normpath("/top/" + subpath)
    try:
        (mount,) = mounts(body)
    except InvalidParameter:
        assert subpath.startswith("/") or ".." in subpath.split("/")
        return
    assert mount.subpath == subpath and not subpath.startswith("/")
    assert inside == "/top" or inside.startswith("/top/")
