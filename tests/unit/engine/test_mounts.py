"""What -v, --mount and --tmpfs ask for."""

from __future__ import annotations

import pytest

from wherry.engine.mounts import mounts_for
from wherry.engine.records import MountSpec
from wherry.errors import InvalidParameter, Unsupported
from wherry.model.containers import HostConfig
from wherry.model.wire import decode


def mounts(body: str) -> tuple[MountSpec, ...]:
    return mounts_for(decode(body.encode(), HostConfig))


@pytest.mark.parametrize(
    ("bind", "options", "read_only"),
    [
        ("/a:/b", ("rbind", "rprivate"), False),
        ("/a:/b:ro", ("rbind", "ro", "rprivate"), True),
        ("/a:/b:rw,rslave", ("rbind", "rslave"), False),
        ("/a:/b:z", ("rbind", "rprivate"), False),
        ("/a:/b:ro,shared", ("rbind", "ro", "shared"), True),
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
    assert mount.options == ("noexec", "nosuid", "nodev", "size=4096", "mode=700")


def test_tmpfs_options_override_the_defaults() -> None:
    (mount,) = mounts('{"Tmpfs":{"/t":"exec,size=1m,ro"}}')
    assert mount.options == ("nosuid", "nodev", "rprivate", "exec", "size=1m", "ro") and mount.read_only


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"Binds":["/a"]}', "invalid volume specification: '/a'"),
        ('{"Binds":["/a:/b:c:d"]}', "invalid volume specification"),
        ('{"Binds":["/a:/b:what"]}', "invalid mode: what"),
        ('{"Binds":["/a:/b:ro,rw"]}', "invalid mode: ro,rw"),
        ('{"Binds":["/a:b"]}', "mount path must be absolute"),
        ('{"Binds":["/a:/"]}', "destination can't be '/'"),
        ('{"Binds":["/a:/b/.."]}', "destination can't be '/'"),
        ('{"Binds":["a/b:/c"]}', "includes invalid characters for a local volume name"),
        ('{"Binds":["/a:/b","/c:/b"]}', "Duplicate mount point: /b"),
        ('{"Mounts":[{"Type":"bind","Source":"/s"}]}', "field Target must not be empty"),
        ('{"Mounts":[{"Type":"bind","Target":"/t"}]}', "field Source must not be empty"),
        ('{"Mounts":[{"Type":"bind","Source":"s","Target":"/t"}]}', "mount path must be absolute"),
        ('{"Mounts":[{"Type":"what","Source":"/s","Target":"/t"}]}', "mount type unknown"),
        ('{"Mounts":[{"Type":"tmpfs","Source":"/s","Target":"/t"}]}', "field Source must not be specified"),
        ('{"Tmpfs":{"/t":"what"}}', "invalid tmpfs option"),
        ('{"Tmpfs":{"t":""}}', "mount path must be absolute"),
    ],
)
def test_refused(body: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        mounts(body)
    assert text in str(refused.value)


def test_named_volumes_are_not_there_yet() -> None:
    with pytest.raises(Unsupported, match="named volumes are not supported yet"):
        mounts('{"Binds":["data:/b"]}')
    with pytest.raises(Unsupported, match="volumes are not supported yet"):
        mounts('{"Mounts":[{"Type":"volume","Source":"v","Target":"/t"}]}')
