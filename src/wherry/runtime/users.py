"""Who `--user` means: names looked up in the container's own /etc/passwd and /etc/group, read by us as data.

The rules are Docker's: either half of `user:group` may be a name or a number; a number need not be listed; without a
group the user's own is taken, and the groups that list the user come along; `--group-add` adds more. The primary
group is always among the supplementary ones (CVE-2022-36109).
"""

from __future__ import annotations

from wherry.linux import files
from wherry.runtime.errors import INVALID, StartFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_ID = 0x7FFFFFFF


def resolve(root: int, user: str, added: Iterable[str]) -> tuple[int, int, list[int]]:
    """uid, gid and supplementary groups for `user` (may be empty: root) below the root directory descriptor.

    Raises StartFailed in Docker's words.
    """
    return choose(_read(root, "/etc/passwd"), _read(root, "/etc/group"), user, added)


def choose(passwd: str, group: str, user: str, added: Iterable[str]) -> tuple[int, int, list[int]]:
    """`resolve` over the texts of the two files."""
    name, _, group_name = user.partition(":")
    uid, gid, known_as = _find_user(passwd, name)
    groups = [line.split(":") for line in group.splitlines()]
    groups = [fields for fields in groups if len(fields) >= 3 and fields[2].isdigit()]
    supplementary: list[int] = []
    if group_name:
        gid = _find_group(groups, group_name)
    elif known_as:
        supplementary = [
            int(fields[2]) for fields in groups if len(fields) > 3 and known_as in fields[3].split(",")
        ]
    found = [gid, *supplementary, *(_find_group(groups, text) for text in added)]
    return uid, gid, list(dict.fromkeys(found))


def _find_user(passwd: str, name: str) -> tuple[int, int, str]:
    wanted = name or "0"
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) < 4 or not fields[2].isdigit():
            continue
        if (name and fields[0] == name) or fields[2] == wanted:
            return int(fields[2]), int(fields[3]) if fields[3].isdigit() else 0, fields[0]
    if wanted.isdigit():
        return _number(wanted, "uids"), 0, ""
    raise StartFailed(INVALID, f"unable to find user {name}: no matching entries in passwd file")


def _find_group(groups: list[list[str]], name: str) -> int:
    for fields in groups:
        if name in (fields[0], fields[2]):
            return int(fields[2])
    if name.isdigit():
        return _number(name, "gids")
    raise StartFailed(INVALID, f"unable to find group {name}: no matching entries in group file")


def _number(text: str, what: str) -> int:
    if len(text) > 10 or int(text) > _MAX_ID:
        raise StartFailed(INVALID, f"{what} and gids must be in range 0-{_MAX_ID}")
    return int(text)


def _read(root: int, path: str) -> str:
    try:
        return files.read_text(root, path)
    except OSError:
        return ""
