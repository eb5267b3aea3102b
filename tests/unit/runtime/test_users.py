"""Who --user means, by the container's own files."""

from __future__ import annotations

import os

import pytest

from wherry.runtime.errors import StartFailed
from wherry.runtime.users import choose, resolve

PASSWD = "root:x:0:0:root:/root:/bin/sh\nbroken\nbob:x:1000:1001::/home/bob:/bin/sh\nx:x:notanumber:1::\n"
GROUP = "root:x:0:\nwheel:x:10:root,bob\nbob:x:1001:\nbroken\nbad:x:zz:bob\n"


@pytest.mark.parametrize(
    ("user", "added", "found"),
    [
        ("", [], (0, 0, [0, 10])),
        ("root", [], (0, 0, [0, 10])),
        ("bob", [], (1000, 1001, [1001, 10])),
        ("1000", [], (1000, 1001, [1001, 10])),
        ("bob:wheel", [], (1000, 10, [10])),
        ("bob:7", ["wheel", "8"], (1000, 7, [7, 10, 8])),
        ("55", [], (55, 0, [0])),
        ("55:66", ["66"], (55, 66, [66])),
    ],
)
def test_choose(user: str, added: list[str], found: tuple[int, int, list[int]]) -> None:
    assert choose(PASSWD, GROUP, user, added) == found


@pytest.mark.parametrize(
    ("user", "added", "text"),
    [
        ("nosuch", [], "unable to find user nosuch: no matching entries in passwd file"),
        ("bob:nosuch", [], "unable to find group nosuch: no matching entries in group file"),
        ("", ["nosuch"], "unable to find group nosuch"),
        ("99999999999", [], "must be in range"),
        ("4294967295", [], "must be in range"),
    ],
)
def test_refused(user: str, added: list[str], text: str) -> None:
    with pytest.raises(StartFailed, match=text):
        choose(PASSWD, GROUP, user, added)


def test_a_link_out_of_the_root_is_not_followed(tmp_path: object) -> None:
    os.makedirs(f"{tmp_path}/root/etc")
    with open(f"{tmp_path}/passwd", "w") as file:
        file.write("evil:x:0:0::/:/bin/sh\n")
    os.symlink("../../passwd", f"{tmp_path}/root/etc/passwd")
    root = os.open(f"{tmp_path}/root", os.O_PATH)
    try:
        assert resolve(root, "", ()) == (0, 0, [0])
        with pytest.raises(StartFailed):
            resolve(root, "evil", ())
    finally:
        os.close(root)
