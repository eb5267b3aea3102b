from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners and devices: needs root")

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
STORE = os.path.join(ROOT, "src", "wherry", "store")


def every_point() -> set[str]:
    names: set[str] = set()
    for directory, _, files in os.walk(STORE):
        for name in files:
            if name.endswith(".py"):
                with open(os.path.join(directory, name)) as file:
                    names |= set(re.findall(r'killpoint\("([^"]+)"\)', file.read()))
    return names


@pytest.mark.timeout(300)
@pytest.mark.parametrize("driver", ["overlay2", "vfs"])
def test_a_kill_between_any_two_changes_leaves_nothing_that_the_next_start_does_not_clean(
    driver: str, tmp_path: os.PathLike[str]
) -> None:
    program = [sys.executable, "-m", "tests.unit.store.crashes", os.path.join(tmp_path, "crashes"), driver]
    path = os.pathsep.join([os.path.join(ROOT, "src"), ROOT])
    done = subprocess.run(
        program, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert {name: wrong for name, wrong in found.items() if wrong} == {}, done.stderr.decode()
    hit = {name.rpartition(":")[0] for name in found}
    assert hit == every_point(), "points that were never hit, or that are not in the store's code"
    print(f"{driver}: killed at {len(found)} points: {', '.join(found)}")
