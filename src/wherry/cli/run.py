"""`run` and `create`.

`run` in the foreground, and why in this order: create; attach, so that no output is missed; wait, so that
no exit is missed; start; then the streams until they end, then the exit code of the answer that has been
waited for.
"""

from __future__ import annotations

import os

from wherry.cli.attach import Front, attach_query, check_tty, detach_keys_of, open_stream, wait_status
from wherry.cli.create import attached, create_body
from wherry.cli.flags import Command, Options
from wherry.cli.reference import parse_reference
from wherry.cli.run_flags import CREATE_ROWS, RUN_ROWS
from wherry.cli.session import PROGRAM, Exit, Session, describe, os_error, size_of
from wherry.client.answers import items
from wherry.client.api import ApiError, escape
from wherry.errors import InvalidParameter, WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wherry.client.http import Response


def _help_hint(name: str) -> str:
    return f"\n\nRun '{PROGRAM} {name} --help' for more information"


def _refuse(session: Session, message: str, code: int = 125) -> Exit:
    return Exit(code, f"{PROGRAM}: {message}{_help_hint(session.command)}")


def _fail(session: Session, message: str) -> Exit:
    """What the engine refuses: `create` says so plainly, `run` as it says everything."""
    return Exit(1, message) if session.command.endswith("create") else _refuse(session, message)


class _IdFile:
    """`--cidfile`: taken before the container is created, filled afterwards, gone again if there is none."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        if not path:
            return
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            raise ValueError(
                f"container ID file found, make sure the other container isn't running or delete {path}"
            ) from None
        except OSError as exc:
            raise ValueError(f"failed to create the container ID file: {os_error(exc)}") from None

    def write(self, container_id: str) -> None:
        if self._fd >= 0:
            os.write(self._fd, container_id.encode())
            os.close(self._fd)
            self._fd = -2

    def discard_if_empty(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            os.unlink(self._path)
            self._fd = -2


def create_container(session: Session, options: Options, arguments: list[str], *, keep: bool = False) -> str:
    """Create, pulling the image where needed; gives the id. Raises Exit. `keep` leaves AutoRemove out."""
    image, command = arguments[0], arguments[1:]
    policy = options.text("pull")
    if policy not in ("always", "missing", "never", ""):
        raise _refuse(
            session, f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"'
        )
    try:
        body = create_body(options, image, command, console=size_of(1))
    except (ValueError, OSError) as exc:
        raise _refuse(session, os_error(exc) if isinstance(exc, OSError) else str(exc)) from None
    if keep:
        body["HostConfig"].pop("AutoRemove", None)
    reference = None
    if not _is_id(image):
        try:
            reference = parse_reference(image)
        except ValueError as exc:
            raise _fail(session, str(exc)) from None
    try:
        id_file = _IdFile(options.text("cidfile"))
    except ValueError as exc:
        raise _refuse(session, str(exc)) from None
    try:
        if policy == "always":
            _pull(session, options, image)
        try:
            answer = _create(session, options, body)
        except ApiError as exc:
            if exc.status != 404 or reference is None or policy not in ("missing", ""):
                raise
            if not options.on("quiet"):
                session.err(f"Unable to find image '{reference.familiar}' locally\n")
            _pull(session, options, image)
            answer = _create(session, options, body)
        for warning in items(answer, "Warnings"):
            session.err(f"WARNING: {warning}\n")
        container_id = str(answer["Id"])
        id_file.write(container_id)
    except WherryError as exc:
        raise _fail(session, describe(exc)) from None
    finally:
        id_file.discard_if_empty()
    return container_id


def _is_id(image: str) -> bool:
    return len(image) == 64 and set(image) <= set("0123456789abcdef")


def _create(session: Session, options: Options, body: dict[str, Any]) -> Any:
    query: list[tuple[str, str]] = []
    if options.text("name"):
        query.append(("name", options.text("name")))
    if options.text("platform"):
        query.append(("platform", options.text("platform")))
    return session.client.post("/containers/create", query, body)


def _pull(session: Session, options: Options, image: str) -> None:
    from wherry.cli.transfer import pull_image

    pull_image(session, image, platform=options.text("platform"), quiet=options.on("quiet"), fd=2)


def _create_command(session: Session, options: Options, arguments: list[str]) -> int:
    session.out(create_container(session, options, arguments) + "\n")
    return 0


def _run(session: Session, options: Options, arguments: list[str]) -> int:
    stdin, stdout, stderr = attached(options)
    detach = options.on("detach")
    tty = options.on("tty")
    if detach and options.many("attach"):
        raise Exit(1, "conflicting options: cannot specify both --attach and --detach")
    if options.on("rm") and options.text("restart") not in ("", "no"):
        raise _refuse(session, "conflicting options: cannot specify both --restart and --rm")
    check_tty(stdin=stdin and not detach, tty=tty)
    streams = (stdin, stdout, stderr)
    if options.on("trace") and not detach:
        return _run_traced(session, options, arguments, streams)
    container_id = create_container(session, options, arguments)
    path = f"/containers/{escape(container_id)}"
    if not detach:
        return _foreground(session, options, path, streams, removes=options.on("rm"))[0]
    _start(session, path, None)
    session.out(f"{container_id}\n")
    if options.on("trace"):
        from wherry.cli.trace import show_trace

        show_trace(session, path)
    return 0


def _run_traced(
    session: Session, options: Options, arguments: list[str], streams: tuple[bool, bool, bool]
) -> int:
    """`run --trace` in the foreground. With `--rm` the container is removed by us, after it has been asked."""
    from wherry.cli.trace import show_trace

    path = f"/containers/{escape(create_container(session, options, arguments, keep=True))}"
    goes_on = False
    try:
        code, goes_on = _foreground(session, options, path, streams, removes=False)
        show_trace(session, path)
    finally:
        if options.on("rm") and not goes_on:
            session.client.delete(path, (("v", "1"), ("force", "1")))
    return code


def _foreground(
    session: Session, options: Options, path: str, streams: tuple[bool, bool, bool], *, removes: bool
) -> tuple[int, bool]:
    """Attach, wait, start, carry the streams. The exit code, and whether the user left it running."""
    stdin, stdout, stderr = streams
    tty = options.on("tty")
    conversation = None
    keys = ""
    if stdin or stdout or stderr:
        keys = detach_keys_of(session, options, tty=tty)
        query = attach_query(streams, keys)
        conversation = open_stream(session, f"{path}/attach", query=query, stdin=stdin, tty=tty, keys=keys)
    condition = "removed" if removes else "next-exit"
    try:
        wait = session.client.call("POST", f"{path}/wait", (("condition", condition),), fresh=True)
    except WherryError as exc:
        raise Exit(125, describe(exc)) from None
    sig_proxy = options.on("sig-proxy")
    with Front(session, path=path, tty=tty, raw=tty and stdin, sig_proxy=sig_proxy) as front:
        _start(session, path, wait if removes else None)
        front.resize()
        if conversation is not None:
            conversation.pump(signals=front.signals, on_signal=front.on_signal)
            if conversation.detached:
                return 0, True
        try:
            return wait_status(wait, front.signals, front.on_signal), False
        except InvalidParameter:
            raise
        except WherryError as exc:
            raise Exit(125, str(exc)) from None


def _start(session: Session, path: str, wait: Response | None) -> None:
    """Start; a refusal becomes the exit code a shell would give. `wait` is read first, so that a container
    that removes itself is gone when we say so.
    """
    try:
        session.client.post(f"{path}/start")
    except WherryError as exc:
        if wait is not None:
            try:
                wait_status(wait, None, None)
            except WherryError:
                pass
        message = str(exc)
        code = 125
        if (
            "executable file not found" in message
            or "no such file or directory" in message
            or ("system cannot find the file specified" in message)
        ):
            code = 127
        elif "permission denied" in message or "is a directory" in message:
            code = 126
        raise _refuse(session, describe(exc), code) from None


COMMANDS = {
    "run": Command(
        _run,
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        (1, None),
        RUN_ROWS,
        interspersed=False,
        examples="""
wherry run --rm busybox echo hello            run one command, keep nothing
wherry run --rm -it busybox sh                a shell in a new container; exit ends it,
                                              Ctrl-P Ctrl-Q leaves it running
wherry run -d --name web -v ./site:/www busybox httpd -f -h /www
                                              a server in the background, with a directory of yours
wherry run --rm -m 64m --cpus 0.5 busybox sh -c 'cat /proc/self/cgroup'
                                              with limits
echo hello | wherry run --rm -i busybox tr a-z A-Z
                                              in a pipe
wherry run --rm --trace busybox true          where do the milliseconds go?
""",
    ),
    "create": Command(
        _create_command,
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        (1, None),
        CREATE_ROWS,
        interspersed=False,
        examples="""
wherry create --name job busybox sh -c 'echo hello'    make it ready
wherry start -a job                                    run it
""",
    ),
}
