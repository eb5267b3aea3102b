"""`attach`, `start`, and what they share with `run` and `exec`: being the front end of a process."""

from __future__ import annotations

from wherry.cli.flags import BOOL, STRING, Command, Options
from wherry.cli.session import Exit, Session, is_terminal, size_of
from wherry.client.answers import mapping
from wherry.client.api import ApiError, decode, segment
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from wherry.cli.streams import Conversation, Signals
    from wherry.client.http import Response

DETACHED = "read escape sequence"
"""What docker says, with exit code 1, when the detach keys end `attach`, `start` or `exec`; `run` ends with 0."""
RESIZE_PAUSE_S = 0.01
SIGNAL_HANG_UP = 1
SIGNAL_TERMINATE = 15
SIGNAL_WINDOW_CHANGED = 28


def detach_keys_of(session: Session, options: Options, *, tty: bool) -> str:
    """The keys asked for by `--detach-keys`, else for a terminal by the user's configuration, else none."""
    if options.text("detach-keys") or not tty:
        return options.text("detach-keys")
    from wherry.cli.config import load_config

    keys = load_config(session.environ).get("detachKeys", "")
    return keys if isinstance(keys, str) else ""


def attach_query(streams: tuple[bool, bool, bool], keys: str) -> list[tuple[str, str]]:
    """The query of an attach to stdin, stdout and stderr."""
    query = [("stream", "1")]
    query += [
        (name, "1") for name, wanted in zip(("stdin", "stdout", "stderr"), streams, strict=True) if wanted
    ]
    if keys:
        query.append(("detachKeys", keys))
    return query


def open_stream(
    session: Session,
    path: str,
    *,
    query: list[tuple[str, str]] | None = None,
    value: dict[str, Any] | None = None,
    stdin: bool,
    tty: bool,
    keys: str,
) -> Conversation:
    """Attach: send the request, take the connection over."""
    from wherry.cli.streams import Conversation

    response = session.client.upgrade(path, query or (), value)
    sock, early = response.hijack()
    detach = None
    if tty and stdin:
        from wherry.cli.terminal import DEFAULT_DETACH_KEYS, DetachKeys, parse_detach_keys

        try:
            sequence = parse_detach_keys(keys or DEFAULT_DETACH_KEYS)
        except ValueError:
            sequence = parse_detach_keys(DEFAULT_DETACH_KEYS)
        detach = DetachKeys(sequence)
    return Conversation(sock, early, stdin=0 if stdin else None, tty=tty, keys=detach)


class Front:
    """Stands between the user's terminal and a process: raw mode, signals passed on, window size kept
    up to date.

    Signals that come before the process runs are kept and passed on then.
    """

    def __init__(self, session: Session, *, path: str, tty: bool, raw: bool, sig_proxy: bool) -> None:
        from wherry.cli.streams import Signals, proxied_signals

        self._session = session
        self._path = path  # /containers/ID or /exec/ID
        self._tty = tty
        self._proxy = sig_proxy
        self._size: tuple[int, int] | None = None
        # A signal that ends us must not leave the terminal raw.
        numbers = proxied_signals() if sig_proxy else [SIGNAL_HANG_UP, SIGNAL_TERMINATE] if raw else []
        self.signals = Signals([*numbers, *([SIGNAL_WINDOW_CHANGED] if tty else [])])
        self._raw = None
        if raw:
            from wherry.cli.terminal import RawMode

            self._raw = RawMode(0)

    def __enter__(self) -> Front:
        self.signals.__enter__()
        if self._raw is not None:
            self._raw.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._raw is not None:
            self._raw.__exit__(*exc)
        self.signals.__exit__(*exc)

    def resize(self, tries: int = 1) -> None:
        """Tell the process how large the terminal is. It is no failure if it has ended meanwhile."""
        size = (size_of(1) or size_of(0)) if self._tty else None
        if size is None or size == self._size:
            return
        for _ in range(tries):
            try:
                self._session.client.post(f"{self._path}/resize", (("h", str(size[0])), ("w", str(size[1]))))
            except ApiError:
                import time

                time.sleep(RESIZE_PAUSE_S)
            else:
                self._size = size
                return

    def on_signal(self, number: int) -> None:
        """Pass a signal on. A container that has just ended is no failure."""
        from wherry.cli.streams import signal_name

        if number == SIGNAL_WINDOW_CHANGED:
            self.resize()
        elif not self._proxy:
            raise Exit(128 + number)
        else:
            try:
                self._session.client.post(f"{self._path}/kill", (("signal", signal_name(number)),))
            except WherryError:
                pass


def wait_status(response: Response, signals: Signals | None, on_signal: Callable[[int], None] | None) -> int:
    """The exit code from an open `wait` request, passing signals on meanwhile."""
    if signals is not None:
        import select

        poll = select.poll()
        poll.register(response.connection.sock.fileno(), select.POLLIN)
        poll.register(signals.fd, select.POLLIN)
        while not response.connection.buffer:
            ready = [fd for fd, _ in poll.poll()]
            if signals.fd in ready:
                for number in signals.taken():
                    if on_signal is not None:
                        on_signal(number)
            if len(ready) > 1 or signals.fd not in ready:
                break
    answer = decode(response.read())
    response.connection.close()
    problem = mapping(answer, "Error").get("Message")
    if problem:
        raise WherryError(f"Error waiting for container: {problem}")
    return int(answer["StatusCode"])


def check_tty(*, stdin: bool, tty: bool) -> None:
    """A terminal's process needs a terminal to type at."""
    if stdin and tty and not is_terminal(0):
        raise Exit(1, "the input device is not a TTY")


def _attach(session: Session, options: Options, arguments: list[str]) -> int:
    """Join a running container. Its end is ours; detaching leaves it running."""
    path = f"/containers/{segment(arguments[0])}"
    wait = session.client.call("POST", f"{path}/wait", fresh=True)
    found = session.client.get(f"{path}/json")
    state = found["State"]
    if not state.get("Running"):
        raise Exit(1, "You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise Exit(1, "You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise Exit(1, "You cannot attach to a restarting container, wait until it is running")
    config = found["Config"]
    tty = bool(config.get("Tty"))
    stdin = bool(config.get("OpenStdin")) and not options.on("no-stdin")
    check_tty(stdin=stdin, tty=tty)
    keys = detach_keys_of(session, options, tty=tty)
    query = attach_query((stdin, True, True), keys)
    conversation = open_stream(session, f"{path}/attach", query=query, stdin=stdin, tty=tty, keys=keys)
    sig_proxy = options.on("sig-proxy") and not tty
    with Front(session, path=path, tty=tty, raw=tty and stdin, sig_proxy=sig_proxy) as front:
        front.resize()
        conversation.pump(signals=front.signals, on_signal=front.on_signal)
        if not conversation.detached:
            return wait_status(wait, front.signals, front.on_signal)
    raise Exit(1, DETACHED)


def _start(session: Session, options: Options, arguments: list[str]) -> int:
    if not (options.on("attach") or options.on("interactive")):
        return _start_all(session, arguments)
    if len(arguments) > 1:
        raise Exit(1, "you cannot start and attach multiple containers at once")
    found = session.client.get(f"/containers/{segment(arguments[0])}/json")
    path = f"/containers/{found['Id']}"
    config = found["Config"]
    tty = bool(config.get("Tty"))
    stdin = options.on("interactive") and bool(config.get("OpenStdin"))
    keys = detach_keys_of(session, options, tty=tty)
    query = attach_query((stdin, True, True), keys)
    auto_remove = bool(found.get("HostConfig", {}).get("AutoRemove"))
    conversation = open_stream(session, f"{path}/attach", query=query, stdin=stdin, tty=tty, keys=keys)
    condition = "removed" if auto_remove else "next-exit"
    wait = session.client.call("POST", f"{path}/wait", (("condition", condition),), fresh=True)
    with Front(
        session, path=path, tty=tty, raw=tty and stdin, sig_proxy=options.on("sig-proxy") and not tty
    ) as front:
        session.client.post(f"{path}/start")
        front.resize()
        conversation.pump(signals=front.signals, on_signal=front.on_signal)
        if not conversation.detached:
            return wait_status(wait, front.signals, front.on_signal)
    raise Exit(1, DETACHED)


def _start_all(session: Session, names: list[str]) -> int:
    failed: list[str] = []
    for name in names:
        try:
            session.client.post(f"/containers/{segment(name)}/start")
        except WherryError as exc:
            session.fail(exc)
            failed.append(name)
        else:
            session.out(f"{name}\n")
    if failed:
        raise Exit(1, f"Error: failed to start containers: {', '.join(failed)}")
    return 0


DETACH_KEYS_ROW = ("detach-keys", "", STRING, "Override the key sequence for detaching a container")

COMMANDS = {
    "attach": Command(
        _attach,
        "[OPTIONS] CONTAINER",
        (1, 1),
        (
            DETACH_KEYS_ROW,
            ("no-stdin", "", BOOL, "Do not attach STDIN"),
            ("sig-proxy", "", BOOL, "Proxy all received signals to the process", True),
        ),
        examples="""
wherry attach web                see a container's output, type into it
                                 Ctrl-P Ctrl-Q leaves, the container goes on
wherry attach --no-stdin web     only look
""",
    ),
    "start": Command(
        _start,
        "[OPTIONS] CONTAINER [CONTAINER...]",
        (1, None),
        (
            ("attach", "a", BOOL, "Attach STDOUT/STDERR and forward signals"),
            DETACH_KEYS_ROW,
            ("interactive", "i", BOOL, "Attach container's STDIN"),
            ("sig-proxy", "", BOOL, "", True),
        ),
        examples="""
wherry start web         run a stopped container again
wherry start -ai shell   and be its terminal
""",
    ),
}
