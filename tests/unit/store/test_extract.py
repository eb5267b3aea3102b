"""Archives unpacked into a directory that has things in it already."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from wherry.errors import InvalidParameter
from wherry.store.extract import extract

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="sets owners")


def tar(*members: tuple[str, dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            content = fields.pop("content", b"")
            info.size = len(content)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def put(target: Path, data: bytes, **options: Any) -> None:
    here = os.open(".", os.O_PATH)
    directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        extract(io.BytesIO(data), directory, place="/place", **{"merge_only": False, **options})
    finally:
        os.fchdir(here)
        os.close(here)
        os.close(directory)


def test_what_is_in_the_way_is_replaced_and_directories_are_merged(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "kept").write_text("kept")
    (tmp_path / "file").write_text("old")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("/etc/passwd")
    put(
        tmp_path,
        tar(
            ("dir", {"type": tarfile.DIRTYPE, "mode": 0o700}),
            ("dir/new", {"content": b"new"}),
            ("file", {"content": b"other"}),
            ("tree", {"content": b"now a file"}),
            ("link", {"content": b"no link"}),
        ),
    )
    assert (tmp_path / "dir" / "kept").read_text() == "kept"
    assert (tmp_path / "dir").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "dir" / "new").read_text() == "new"
    assert (tmp_path / "file").read_text() == "other"
    assert (tmp_path / "tree").read_text() == "now a file"
    assert not (tmp_path / "link").is_symlink()
    assert Path("/etc/passwd").read_text() != "no link"


def test_an_open_file_keeps_what_it_had(tmp_path: Path) -> None:
    """It is replaced, not written over: a program that runs from it is not disturbed."""
    (tmp_path / "f").write_text("before")
    with open(tmp_path / "f") as file:
        put(tmp_path, tar(("f", {"content": b"after"})))
        assert file.read() == "before"


def test_whiteouts_mean_nothing_here(tmp_path: Path) -> None:
    (tmp_path / "foo").write_text("stays")
    put(tmp_path, tar((".wh.foo", {}), (".wh..wh..opq", {})))
    assert sorted(os.listdir(tmp_path)) == [".wh..wh..opq", ".wh.foo", "foo"]


def test_merge_only_refuses_a_change_of_kind(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("x")
    with pytest.raises(
        InvalidParameter, match='cannot overwrite directory "/place/d" with non-directory "/place"'
    ):
        put(tmp_path, tar(("d", {})), merge_only=True)
    with pytest.raises(
        InvalidParameter, match='cannot overwrite non-directory "/place/f" with directory "/place"'
    ):
        put(tmp_path, tar(("f", {"type": tarfile.DIRTYPE})), merge_only=True)
    put(tmp_path, tar(("d", {"type": tarfile.DIRTYPE}), ("f", {})), merge_only=True)


def test_an_owner_for_all_and_missing_parents(tmp_path: Path) -> None:
    put(tmp_path, tar(("a/b/c", {"uid": 5, "gid": 6})), owner=(70, 80))
    for path in ("a", "a/b", "a/b/c"):
        assert (os.stat(tmp_path / path).st_uid, os.stat(tmp_path / path).st_gid) == (70, 80)
    put(tmp_path, tar(("x/y", {"uid": 5, "gid": 6})))
    assert (os.stat(tmp_path / "x").st_uid, os.stat(tmp_path / "x/y").st_uid) == (0, 5)


def test_directories_times_are_set_last(tmp_path: Path) -> None:
    put(
        tmp_path,
        tar(
            (".", {"type": tarfile.DIRTYPE, "mtime": 1000, "mode": 0o755}),
            ("d", {"type": tarfile.DIRTYPE, "mtime": 2000, "mode": 0o755}),
            ("d/f", {"mtime": 3000}),
        ),
    )
    assert [int(os.stat(tmp_path / path).st_mtime) for path in (".", "d", "d/f")] == [1000, 2000, 3000]


@pytest.mark.parametrize("name", ["../x", "/../x", "a/../../x"])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InvalidParameter, match='is outside of "/place"'):
        put(tmp_path / "in", tar((name, {})))
    assert os.listdir(tmp_path) == ["in"]


def test_a_hard_link_to_what_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    put(tmp_path, tar(("b", {"type": tarfile.LNKTYPE, "linkname": "a"})))
    assert os.path.samefile(tmp_path / "a", tmp_path / "b")
    with pytest.raises(InvalidParameter, match="hard link 'c' leads to 'nowhere'"):
        put(tmp_path, tar(("c", {"type": tarfile.LNKTYPE, "linkname": "nowhere"})))
