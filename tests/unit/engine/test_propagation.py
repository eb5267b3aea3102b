"""Shared and slave binds, and binds of the engine's own data."""

from __future__ import annotations

import pytest

from wherry.engine.mounts import from_bind
from wherry.engine.propagation import check_source, touches, with_data_root
from wherry.errors import Internal, InvalidParameter

ROOT = "/var/lib/wherry"
MOUNTINFO = [
    "1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw",
    "2 1 0:5 / /run rw shared:3 - tmpfs tmpfs rw",
    "3 1 0:6 / /mnt/a\\040b rw master:4 - tmpfs tmpfs rw",
    "4 1 0:7 / /mnt/both rw shared:5 master:4 - tmpfs tmpfs rw",
    "5 4 0:8 / /mnt/both rw - tmpfs tmpfs rw",
]


@pytest.mark.parametrize("source", ["/", "/var", "/var/lib/wherry", "/var/lib/wherry/volumes/x"])
def test_what_shows_the_data_root_is_a_slave(source: str) -> None:
    (mount,) = with_data_root([from_bind(f"{source}:/m:ro")], ROOT)
    assert mount.propagation == "rslave" and mount.options == ("rbind", "rro", "rslave")
    for kept in ("rslave", "rshared"):
        (mount,) = with_data_root([from_bind(f"{source}:/m:{kept}")], ROOT)
        assert mount.propagation == kept
    for refused in ("private", "rprivate", "slave", "shared"):
        with pytest.raises(InvalidParameter, match='must use either propagation mode "rslave" or "rshared"'):
            with_data_root([from_bind(f"{source}:/m:{refused}")], ROOT)


@pytest.mark.parametrize("source", ["/srv", "/var/lib/wherry2", "/var/lib/other"])
def test_others_are_as_asked(source: str) -> None:
    (mount,) = with_data_root([from_bind(f"{source}:/m")], ROOT)
    assert mount.propagation == "rprivate" and not touches(source, ROOT)


@pytest.mark.parametrize(
    ("bind", "text"),
    [
        ("/srv:/m:shared", "path /srv is mounted on / but it is not a shared mount"),
        ("/srv:/m:rslave", "path /srv is mounted on / but it is not a shared or slave mount"),
        ("/mnt/a b:/m:rshared", "path /mnt/a b is mounted on /mnt/a b but it is not a shared mount"),
        ("/mnt/both/x:/m:rshared", "path /mnt/both/x is mounted on /mnt/both but it is not a shared mount"),
        ("/run/x:/m:rshared", ""),
        ("/run/x:/m:slave", ""),
        ("/mnt/a b:/m:rslave", ""),
        ("/srv:/m", ""),
        ("data:/m", ""),
        ("/var/lib/wherry:/m:rslave", ""),
    ],
)
def test_the_source_must_be_shared(bind: str, text: str) -> None:
    if not text:
        check_source(from_bind(bind), ROOT, MOUNTINFO)
        return
    with pytest.raises(Internal) as refused:
        check_source(from_bind(bind), ROOT, MOUNTINFO)
    assert str(refused.value) == text
