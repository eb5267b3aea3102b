from __future__ import annotations

from pathlib import Path

from wherry.engine.boot import begin_boot
from wherry.shim import records


def test_what_another_boot_left_is_void_but_for_exits(tmp_path: Path) -> None:
    begin_boot(str(tmp_path), boot_id="one")
    for name in ("ran", "ended"):
        place = tmp_path / "containers" / name
        place.mkdir(parents=True)
        records.write(str(place), records.SHIM, {"pid": 1})
    end = records.exit_record(3)
    records.write(str(tmp_path / "containers" / "ended"), records.EXIT, end)
    begin_boot(str(tmp_path), boot_id="one")
    assert (tmp_path / "containers" / "ran" / "shim.json").exists()
    begin_boot(str(tmp_path), boot_id="two")
    assert [path.name for path in (tmp_path / "containers").iterdir()] == ["ended"]
    assert [path.name for path in (tmp_path / "containers" / "ended").iterdir()] == ["exit.json"]
    assert records.find(str(tmp_path / "containers" / "ended"), records.EXIT) == end
    assert (tmp_path / "boot-id").read_text() == "two\n"


def test_by_default_it_is_the_kernels(tmp_path: Path) -> None:
    begin_boot(str(tmp_path))
    assert (tmp_path / "boot-id").read_text() == Path("/proc/sys/kernel/random/boot_id").read_text()
