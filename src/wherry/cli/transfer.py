"""Images and root filesystems in and out: `pull`, `load`, `save`, `import`, `export`."""

from __future__ import annotations

import os

from wherry.cli.flags import BOOL, LIST, STRING, Command, Options
from wherry.cli.progress import show_progress
from wherry.cli.reference import parse_reference
from wherry.cli.session import Exit, Session, is_terminal, os_error
from wherry.client.api import segment
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from wherry.client.http import Response

PIECE = 512 * 1024


def pull_image(
    session: Session, name: str, *, platform: str, quiet: bool, fd: int, all_tags: bool = False
) -> None:
    """Have the engine pull, drawing its progress on `fd`. Raises WherryError with the engine's message."""
    from wherry.cli.config import registry_auth

    try:
        reference = parse_reference(name)
    except ValueError as exc:
        raise Exit(1, str(exc)) from None
    query = [("fromImage", reference.name)]
    if platform:
        query.append(("platform", platform))
    if reference.digest:
        query.append(("tag", reference.digest))
    elif not all_tags:
        query.append(("tag", reference.tag or "latest"))
    response = session.client.call(
        "POST",
        "/images/create",
        query,
        headers=(("X-Registry-Auth", registry_auth(session.environ, reference.domain)),),
    )
    try:
        show_progress(response, fd, quiet=quiet)
    except Exit as exc:
        raise PullFailed(exc.message) from None


class PullFailed(WherryError):
    """The engine reported a failure in the middle of a pull."""


def _pull(session: Session, options: Options, arguments: list[str]) -> int:
    name = arguments[0]
    quiet, all_tags = options.on("quiet"), options.on("all-tags")
    try:
        reference = parse_reference(name)
    except ValueError as exc:
        raise Exit(1, str(exc)) from None
    if all_tags and (reference.tag or reference.digest):
        raise Exit(1, "tag can't be used with --all-tags/-a")
    if not (reference.tag or reference.digest or all_tags or quiet):
        session.out("Using default tag: latest\n")
    pull_image(session, name, platform=options.text("platform"), quiet=quiet, fd=1, all_tags=all_tags)
    session.out((reference.name if all_tags else reference.full) + "\n")
    return 0


def _pieces(fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, PIECE):
        yield piece


def _open_input(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise Exit(1, os_error(exc)) from None


def _load(session: Session, options: Options, arguments: list[str]) -> int:
    path = options.text("input")
    if path:
        fd = _open_input(path)
    else:
        if is_terminal(0):
            raise Exit(1, "requested load from stdin, but stdin is empty")
        fd = 0
    quiet = options.on("quiet") or not is_terminal(1)
    query = [("quiet", "1" if quiet else "0")]
    if options.text("platform"):
        query.append(("platform", options.text("platform")))
    response = session.client.call(
        "POST", "/images/load", query, body=_pieces(fd), headers=(("Content-Type", "application/x-tar"),)
    )
    if "json" in response.headers.get("content-type", ""):
        show_progress(response)
    else:
        session.out(response.read().decode("utf-8", "replace"))
    return 0


def _write_out(response: Response, path: str) -> None:
    """The body to stdout, or to a file that appears only when it is whole."""
    from wherry.cli.streams import write_all

    if not path:
        for piece in response.pieces():
            write_all(1, piece)
        return
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in response.pieces():
                write_all(fd, piece)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def _check_output(path: str, what: str) -> None:
    if not path:
        if is_terminal(1):
            raise Exit(1, f"cowardly refusing to {what} to a terminal. Use the -o flag or redirect")
        return
    directory = os.path.dirname(path)
    thing = "image" if what == "save" else "container"
    if os.path.isdir(path):
        raise Exit(
            1,
            f'failed to {what} {thing}: invalid output path: "{path}" must be a regular file or not exist',
        )
    if directory and not os.path.isdir(directory):
        raise Exit(
            1,
            f'failed to {what} {thing}: invalid output path: directory "{directory}" does not exist',
        )


def _save(session: Session, options: Options, arguments: list[str]) -> int:
    path = options.text("output")
    _check_output(path, "save")
    query = [("names", name) for name in arguments]
    if options.text("platform"):
        query.append(("platform", options.text("platform")))
    _write_out(session.client.call("GET", "/images/get", query), path)
    return 0


def _export(session: Session, options: Options, arguments: list[str]) -> int:
    path = options.text("output")
    _check_output(path, "export")
    _write_out(session.client.call("GET", f"/containers/{segment(arguments[0])}/export"), path)
    return 0


def _import(session: Session, options: Options, arguments: list[str]) -> int:
    source = arguments[0]
    query = [("changes", change) for change in options.many("change")]
    is_url = source.startswith(("http://", "https://"))
    query.append(("fromSrc", source if is_url else "-"))
    if options.text("message"):
        query.append(("message", options.text("message")))
    if options.text("platform"):
        query.append(("platform", options.text("platform")))
    if len(arguments) > 1:
        try:
            parse_reference(arguments[1])
        except ValueError as exc:
            raise Exit(1, str(exc)) from None
        query.append(("repo", arguments[1]))
    if is_url:
        response = session.client.call("POST", "/images/create", query)
    else:
        fd = 0 if source == "-" else _open_input(source)
        response = session.client.call(
            "POST", "/images/create", query, body=_pieces(fd), headers=(("Content-Type", "text/plain"),)
        )
    show_progress(response)
    return 0


_OUTPUT_ROW = ("output", "o", STRING, "Write to a file, instead of STDOUT")
_PLATFORM_ROW = ("platform", "", STRING, "Set platform if server is multi-platform capable")

COMMANDS = {
    "pull": Command(
        _pull,
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        (1, 1),
        (
            ("all-tags", "a", BOOL, "Download all tagged images in the repository"),
            _PLATFORM_ROW,
            ("quiet", "q", BOOL, "Suppress verbose output"),
            ("disable-content-trust", "", BOOL, "", True),
        ),
        examples="""
wherry pull busybox
wherry pull --platform linux/arm64 registry.example.com:5000/team/app:1.2
""",
    ),
    "load": Command(
        _load,
        rows=(
            ("input", "i", STRING, "Read from tar archive file, instead of STDIN"),
            ("platform", "", STRING, "Load only the given platform (os[/arch[/variant]])"),
            ("quiet", "q", BOOL, "Suppress the load output"),
        ),
        examples="""
wherry load -i images.tar
ssh other wherry save busybox | wherry load
""",
    ),
    "save": Command(
        _save,
        "[OPTIONS] IMAGE [IMAGE...]",
        (1, None),
        (_OUTPUT_ROW, ("platform", "", STRING, "Save only the given platform (os[/arch[/variant]])")),
        examples="wherry save -o images.tar busybox nginx:1.27",
    ),
    "import": Command(
        _import,
        "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
        (1, None),
        (
            ("change", "c", LIST, "Apply Dockerfile instruction to the created image"),
            ("message", "m", STRING, "Set commit message for imported image"),
            _PLATFORM_ROW,
        ),
        examples="tar -C rootfs -c . | wherry import -c 'CMD [\"/bin/sh\"]' - mine:1",
    ),
    "export": Command(
        _export,
        "[OPTIONS] CONTAINER",
        (1, 1),
        (_OUTPUT_ROW,),
        examples="wherry export web | tar -t",
    ),
}
