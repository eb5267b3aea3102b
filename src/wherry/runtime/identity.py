"""From set-up code to the user's program: limits, user, capabilities, seccomp, PATH look-up, execve.

Both the container's first process and every exec end here. The order is runc's: what needs privileges comes
before they are dropped; the filter is installed before the drop unless no-new-privileges is on (it needs
CAP_SYS_ADMIN).
"""

from __future__ import annotations

import errno
import os
import resource
import stat

from wherry.linux import capabilities, files, process
from wherry.runtime import procfs, users, values
from wherry.runtime.errors import (
    INTERNAL,
    NOT_FOUND,
    PERMISSION,
    StartFailed,
    go_text,
    invalid,
    kind_of,
    quote,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_RLIMITS: dict[str, int] = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
_INFINITY = 0xFFFFFFFFFFFFFFFF
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PREFIX = "unable to start container process: "
_ESCAPED = (
    "current working directory is outside of container mount namespace root"
    " -- possible container breakout detected"
)


class Identity:
    """A `process` object of config.json, checked before the fork, so that what follows cannot fail on its
    shape.
    """

    __slots__ = (
        "ambient",
        "apparmor",
        "args",
        "bounding",
        "cwd",
        "effective",
        "env",
        "gid",
        "groups",
        "height",
        "inheritable",
        "no_new_privileges",
        "oom_score_adj",
        "own_bounding",
        "own_permitted",
        "permitted",
        "rlimits",
        "seccomp",
        "selinux",
        "terminal",
        "uid",
        "umask",
        "user_groups",
        "user_name",
        "width",
    )

    def __init__(self, entry: dict[str, Any], seccomp: bytes | None) -> None:
        self.args = values.texts(entry, "args")
        if not self.args:
            raise invalid("args must not be empty")
        self.env = parse_environment(values.texts(entry, "env"))
        self.cwd = values.text(entry, "cwd")
        if not self.cwd.startswith("/"):
            raise invalid("cwd must be an absolute path" if self.cwd else "cwd property must not be empty")
        user = values.child(entry, "user")
        self.uid = _id("uid", user.get("uid") or 0)
        self.gid = _id("gid", user.get("gid") or 0)
        groups: list[Any] = user.get("additionalGids") or []
        self.groups = [_id("gid", each) for each in groups]
        self.umask = values.number(user, "umask")
        # `user[:group]` to be looked up in the container, in place of the numbers. None: the numbers stand.
        self.user_name = values.text(user, "username") if "username" in user else None
        self.user_groups = values.texts(user, "groupnames")
        sets = values.child(entry, "capabilities")
        self.bounding = capabilities.bits(values.texts(sets, "bounding"))
        self.effective = capabilities.bits(values.texts(sets, "effective"))
        self.permitted = capabilities.bits(values.texts(sets, "permitted"))
        self.inheritable = capabilities.bits(values.texts(sets, "inheritable"))
        self.ambient = capabilities.bits(values.texts(sets, "ambient"))
        self.no_new_privileges = values.flag(entry, "noNewPrivileges")
        self.rlimits = [_rlimit(each) for each in values.children(entry, "rlimits")]
        self.oom_score_adj = values.number(entry, "oomScoreAdj")
        self.apparmor = values.text(entry, "apparmorProfile")
        self.selinux = values.text(entry, "selinuxLabel")
        self.terminal = values.flag(entry, "terminal")
        size = values.child(entry, "consoleSize")
        self.height, self.width = _size(size, "height"), _size(size, "width")
        self.seccomp = seccomp
        # What we have ourselves is known before the fork: it is the most that a container can get.
        self.own_permitted, self.own_bounding = capabilities.limits()


def set_limits(identity: Identity) -> None:
    """Apply the rlimits. One that is asked for and cannot be had is a failure that names itself."""
    for name, number, soft, hard in identity.rlimits:
        try:
            resource.setrlimit(number, (soft, hard))
        except (ValueError, OSError) as exc:
            # The module turns EPERM into ValueError("not allowed to raise maximum limit").
            text = go_text(exc) if isinstance(exc, OSError) else "operation not permitted"
            raise StartFailed(
                INTERNAL, f"{_PREFIX}error during container init: error setting rlimit {name}: {text}"
            ) from exc


def join_keyring(container_id: str, *, first: bool) -> None:
    """A session keyring of the container's own: ours must not be found through it."""
    try:
        process.join_session_keyring(f"_ses.{container_id}", searchable=first)
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise


def drop_privileges(identity: Identity, root: int) -> None:
    """Become the user, with the capabilities and in the directory asked for, filter on, all descriptors but
    0-2 on their way to be closed. What remains is `execute`.
    """
    if identity.user_name is not None:
        found = users.resolve(root, identity.user_name, identity.user_groups)
        identity.uid, identity.gid, identity.groups = found
    if identity.seccomp is not None and not identity.no_new_privileges:
        process.install_seccomp(identity.seccomp)
    own_permitted, bound = identity.own_permitted, identity.own_bounding
    capabilities.limit_bounding(identity.bounding & bound, bound)
    process.prctl(process.PR_SET_KEEPCAPS, 1)
    entered = _change_directory(identity.cwd, last=False)
    _become_user(identity)
    if not entered:
        _change_directory(identity.cwd, last=True)
    _check_directory()
    process.prctl(process.PR_SET_KEEPCAPS, 0)
    permitted = identity.permitted & own_permitted
    inheritable = identity.inheritable & (own_permitted | bound)
    capabilities.set_own(identity.effective & permitted, permitted, inheritable)
    capabilities.set_ambient(identity.ambient & permitted & inheritable)
    if identity.no_new_privileges:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    if "HOME" not in identity.env:
        identity.env["HOME"] = find_home(root, identity.uid)


def look_up(identity: Identity) -> str:
    """The file to execute for args[0], as execvp(3) finds it with the process's own PATH; errors in Docker's
    words.
    """
    name = identity.args[0]
    if "/" in name:
        error = _not_executable(name)
        if error is None:
            return name
        if error.errno == errno.EACCES:
            raise StartFailed(PERMISSION, f"{_PREFIX}exec: {quote(name)}: permission denied")
        raise StartFailed(kind_of(error), f"{_PREFIX}exec: {quote(name)}: stat {name}: {go_text(error)}")
    for directory in (
        identity.env.get("PATH") or _DEFAULT_PATH if "PATH" not in identity.env else identity.env["PATH"]
    ).split(":"):
        path = f"{directory or '.'}/{name}"
        if name and _not_executable(path) is None:
            return path
    raise StartFailed(NOT_FOUND, f"{_PREFIX}exec: {quote(name)}: executable file not found in $PATH")


def execute(identity: Identity, path: str) -> NoReturn:
    """The last step: the filter, when it had to wait, and execve."""
    if identity.umask is not None:
        os.umask(identity.umask & 0o777)
    else:
        os.umask(0o022)
    if identity.seccomp is not None and identity.no_new_privileges:
        process.install_seccomp(identity.seccomp)
    try:
        os.execve(path, identity.args, identity.env)
    except OSError as exc:
        kind = PERMISSION if exc.errno in (errno.EACCES, errno.EPERM, errno.ENOEXEC) else kind_of(exc)
        raise StartFailed(kind, f"exec {path}: {go_text(exc)}") from exc


def parse_environment(entries: list[str]) -> dict[str, str]:
    """NAME=VALUE texts as a mapping; of a repeated name the last counts."""
    result: dict[str, str] = {}
    for entry in entries:
        name, _, value = entry.partition("=")
        if name:
            result[name] = value
    return result


def _become_user(identity: Identity) -> None:
    try:
        os.setgroups(identity.groups)
    except OSError as exc:
        if identity.groups or exc.errno != errno.EPERM:  # a user namespace may deny setgroups altogether
            raise StartFailed(
                INTERNAL, f"{_PREFIX}error during container init: setgroups: {go_text(exc)}"
            ) from exc
    try:
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as exc:
        step = f"setresuid {identity.uid}:{identity.gid}"
        raise StartFailed(INTERNAL, f"{_PREFIX}error during container init: {step}: {go_text(exc)}") from exc


def _change_directory(cwd: str, *, last: bool) -> bool:
    """chdir; False when it may work once we are the user (a directory that root may not enter: NFS, FUSE)."""
    try:
        os.chdir(cwd)
    except OSError as exc:
        if not last and exc.errno in (errno.EACCES, errno.EPERM):
            return False
        raise StartFailed(
            kind_of(exc), f"{_PREFIX}chdir to cwd ({quote(cwd)}) set in config.json failed: {go_text(exc)}"
        ) from exc
    return True


def _check_directory() -> None:
    """A working directory that was reached through a leaked descriptor lies outside of our root
    (CVE-2024-21626).
    """
    try:
        inside = process.working_directory().startswith(b"/")
    except OSError:
        inside = False
    if not inside:
        raise StartFailed(INTERNAL, _PREFIX + _ESCAPED)


def _not_executable(path: str) -> OSError | None:
    """None when execve(path) can be tried, else why not."""
    try:
        found = os.stat(path)
    except OSError as exc:
        return exc
    if stat.S_ISDIR(found.st_mode) or not os.access(path, os.X_OK, effective_ids=True):
        return OSError(errno.EACCES, os.strerror(errno.EACCES), path)
    return None


def find_home(root: int, uid: int) -> str:
    """The user's home by the container's own /etc/passwd, read by us; "/" when it does not say."""
    try:
        text = files.read_text(root, "/etc/passwd")
    except OSError:
        return "/"
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 5 and fields[2] == str(uid):
            return fields[5] or "/"
    return "/"


def _rlimit(entry: dict[str, Any]) -> tuple[str, int, int, int]:
    name = values.text(entry, "type")
    number = _RLIMITS.get(name)
    if number is None:
        raise invalid(f"invalid rlimit type {name!r}")
    soft, hard = (_limit(values.number(entry, key) or 0) for key in ("soft", "hard"))
    return name, number, soft, hard


def _limit(number: int) -> int:
    return resource.RLIM_INFINITY if number >= _INFINITY or number < 0 else number


def _id(kind: str, value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 0xFFFFFFFF:
        raise invalid(f"invalid {kind} {value!r}")
    return value


def _size(entry: dict[str, Any], key: str) -> int:
    value = values.number(entry, key) or 0
    if not 0 <= value <= 0xFFFF:
        raise invalid(f"invalid console {key} {value}")
    return value


def write_labels(identity: Identity, proc: int) -> None:
    """Have the next execve change to the AppArmor profile or SELinux label."""
    for label, names, text in (
        (identity.apparmor, ("attr/apparmor/exec", "attr/exec"), f"exec {identity.apparmor}"),
        (identity.selinux, ("attr/exec",), identity.selinux),
    ):
        if label:
            _write_label(proc, names, text, label)


def _write_label(proc: int, names: tuple[str, ...], text: str, label: str) -> None:
    for name in names:
        try:
            procfs.write_self(proc, name, text)
            return
        except OSError as exc:
            if name == names[-1]:
                raise StartFailed(
                    INTERNAL,
                    f"{_PREFIX}error during container init: unable to apply label {label}: {go_text(exc)}",
                ) from exc
