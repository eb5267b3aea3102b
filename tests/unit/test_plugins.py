from __future__ import annotations

import subprocess
import sys

import pytest

from wherry import plugins
from wherry.errors import InvalidParameter
from wherry.store.snapshots.overlay2 import Overlay2


def test_a_driver_is_found_by_its_name() -> None:
    assert plugins.driver_path(plugins.SNAPSHOTS, "overlay2") == "wherry.store.snapshots.overlay2:Overlay2"
    assert plugins.load_driver(plugins.SNAPSHOTS, "overlay2") is Overlay2
    assert {"overlay2", "vfs"} <= set(plugins.driver_names(plugins.SNAPSHOTS))


def test_an_unknown_driver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidParameter) as caught:
        plugins.driver_path(plugins.SNAPSHOTS, "devicemapper")
    assert "'devicemapper'" in str(caught.value)
    assert "overlay2, vfs" in str(caught.value)


def test_importlib_metadata_is_imported_on_use_only() -> None:
    code = "import sys, wherry.plugins; sys.exit('importlib.metadata' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
