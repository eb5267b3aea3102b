"""`exec`: another process in a running container."""

from __future__ import annotations

from wherry.cli.attach import DETACH_KEYS_ROW, DETACHED, Front, check_tty, detach_keys_of, open_stream
from wherry.cli.envfile import read_env_file
from wherry.cli.flags import BOOL, LIST, STRING, Command, Options
from wherry.cli.run_flags import ENV
from wherry.cli.session import Exit, Session, size_of
from wherry.client.api import escape, segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _exec(session: Session, options: Options, arguments: list[str]) -> int:
    container, command = arguments[0], arguments[1:]
    detach = options.on("detach")
    stdin = options.on("interactive") and not detach
    tty = options.on("tty")
    keys = detach_keys_of(session, options, tty=tty)
    environment: list[str] = []
    for path in options.many("env-file"):
        try:
            environment += read_env_file(path, lookup=True)
        except ValueError as exc:
            raise Exit(1, str(exc)) from None
    environment += options.many("env")
    path = f"/containers/{segment(container)}"
    if tty and stdin:
        # A missing container is the more useful complaint, so it comes first.
        session.client.get(f"{path}/json")
        check_tty(stdin=stdin, tty=tty)
    request: dict[str, Any] = {
        "AttachStdin": stdin,
        "AttachStdout": not detach,
        "AttachStderr": not detach,
        "Tty": tty,
        "Cmd": command,
        "Env": environment,
        "User": options.text("user"),
        "WorkingDir": options.text("workdir"),
        "Privileged": options.on("privileged"),
        "DetachKeys": keys,
    }
    request = {key: value for key, value in request.items() if value not in ("", [], False)}
    size = size_of(1)
    if tty and size is not None:
        request["ConsoleSize"] = list(size)
    exec_id = session.client.post(f"{path}/exec", (), request)["Id"]
    if not exec_id:
        raise Exit(1, "exec ID empty")
    path = f"/exec/{escape(exec_id)}"
    start: dict[str, Any] = {"Detach": detach, "Tty": tty}
    if "ConsoleSize" in request:
        start["ConsoleSize"] = request["ConsoleSize"]
    if detach:
        session.client.post(f"{path}/start", (), start)
        return 0
    conversation = open_stream(session, f"{path}/start", value=start, stdin=stdin, tty=tty, keys=keys)
    with Front(session, path=path, tty=tty, raw=tty and stdin, sig_proxy=False) as front:
        front.resize(tries=3)  # an older engine answers before the process has its terminal
        conversation.pump(signals=front.signals, on_signal=front.on_signal)
    if conversation.detached:
        raise Exit(1, DETACHED)
    return int(session.client.get(f"{path}/json").get("ExitCode") or 0)


COMMANDS = {
    "exec": Command(
        _exec,
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        (2, None),
        (
            ("detach", "d", BOOL, "Detached mode: run command in the background"),
            DETACH_KEYS_ROW,
            ("env", "e", ENV, "Set environment variables"),
            ("env-file", "", LIST, "Read in a file of environment variables"),
            ("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
            ("privileged", "", BOOL, "Give extended privileges to the command"),
            ("tty", "t", BOOL, "Allocate a pseudo-TTY"),
            ("user", "u", STRING, 'Username or UID (format: "<name|uid>[:<group|gid>]")'),
            ("workdir", "w", STRING, "Working directory inside the container"),
        ),
        interspersed=False,
        examples="""
wherry exec -it web sh                   a shell beside what runs there
wherry exec web cat /etc/hostname        one command; its exit code is ours
wherry exec -i web sh < script.sh        a script from outside
""",
    ),
}
