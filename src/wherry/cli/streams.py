"""The conversation with a container's process: standard streams over a raw connection, signals, exit status.

One thread polls: the connection, standard input, the answer of a waiting request, and signals by a wake-up
pipe. The connection never blocks us on sending, so that output goes on while a process does not read its
input.

    stdin ──(detach keys)──▶ connection ──(frames, unless tty)──▶ stdout, stderr
    signal ──▶ on_signal          waiting answer ──▶ `pump` returns
"""

from __future__ import annotations

import _socket
import os
import select

from wherry.client.http import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Iterable

    from wherry.cli.terminal import DetachKeys
    from wherry.client.http import Socket
else:
    import _signal  # `signal` wraps it in enums, which costs 4 ms

READ_SIZE = 256 * 1024
MAX_FRAME = 64 * 1024 * 1024
STDIN, STDOUT, STDERR, SYSTEM_ERROR = range(4)


class Demultiplexer:
    """Splits Docker's frames (stream number, three zeros, length, bytes), in pieces of any size."""

    def __init__(self, write: Callable[[int, bytes | memoryview], None]) -> None:
        self._write = write
        self._head = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Write out what has arrived. Raises ProtocolError for what is no frame."""
        view = memoryview(data)
        position = 0
        size = len(data)
        while position < size:
            if self._left:
                piece = view[position : position + self._left]
                self._write(self._stream, piece)
                self._left -= len(piece)
                position += len(piece)
                continue
            wanted = 8 - len(self._head)
            self._head += bytes(view[position : position + wanted])
            position += wanted
            if len(self._head) < 8:
                return
            self._stream = self._head[0]
            self._left = int.from_bytes(self._head[4:8], "big")
            if self._stream > SYSTEM_ERROR or self._head[1:4] != b"\0\0\0" or self._left > MAX_FRAME:
                raise ProtocolError(f"unrecognized input header: {self._head[0]}")
            self._head = b""

    @property
    def is_between_frames(self) -> bool:
        return not self._left and not self._head


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write everything, also to a descriptor that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def write_stream(stream: int, data: bytes | memoryview) -> None:
    """A frame's bytes to our own stdout or stderr; the engine's own complaint becomes an error."""
    if stream == SYSTEM_ERROR:
        raise ProtocolError(f"error from daemon in stream: {bytes(data).decode('utf-8', 'replace')}")
    write_all(2 if stream == STDERR else 1, data)


class Signals:
    """Catches signals while the `with` block lasts, and gives them in order through a pipe to poll."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._old: list[tuple[int, object]] = []
        self.fd = -1
        self._write_fd = -1

    def __enter__(self) -> Signals:
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in self._numbers:
            try:
                self._old.append((number, _signal.signal(number, _ignore)))
            except OSError:
                continue
        return self

    def __exit__(self, *_exc: object) -> None:
        for number, handler in self._old:
            _signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        _signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._write_fd)

    def taken(self) -> bytes:
        """The numbers of the signals that came since, one byte each."""
        try:
            return os.read(self.fd, 512)
        except BlockingIOError:
            return b""


def _ignore(_number: int, _frame: object) -> None:
    """A Python handler, so that the number is written to the wake-up pipe."""


def proxied_signals() -> list[int]:
    """Every signal that can be caught and is not about ourselves: what docker forwards."""
    kept_out = {
        "SIGCHLD",
        "SIGPIPE",
        "SIGURG",
        "SIGWINCH",
        "SIGSEGV",
        "SIGBUS",
        "SIGFPE",
        "SIGILL",
        "SIGTRAP",
        "SIGABRT",
    }
    kept_out |= {"SIGKILL", "SIGSTOP", "SIGCLD", "SIGIOT", "SIGPOLL", "SIGRTMIN", "SIGRTMAX", "SIGSTKFLT"}
    return [
        getattr(_signal, name)
        for name in dir(_signal)
        if name.startswith("SIG") and name[3] != "_" and name not in kept_out
    ]


def signal_name(number: int) -> str:
    """TERM for 15; the number where it has no name."""
    for name in dir(_signal):
        if (
            name.startswith("SIG")
            and name[3] != "_"
            and getattr(_signal, name) == number
            and name not in ("SIGCLD", "SIGPOLL", "SIGIOT")
        ):
            return name[3:]
    return str(number)


class Conversation:
    """One attached connection. `stdin` is the descriptor to read from, None for no input."""

    def __init__(
        self, sock: Socket, early: bytes, *, stdin: int | None, tty: bool, keys: DetachKeys | None
    ) -> None:
        self.sock = sock
        self.detached = False
        self._early = early
        self._stdin = stdin
        self._keys = keys
        self._pending = memoryview(b"")
        self._close_after = False  # stdin has ended: half-close once everything is sent
        self._frames = None if tty else Demultiplexer(write_stream)

    def pump(
        self,
        *,
        signals: Signals | None = None,
        on_signal: Callable[[int], None] | None = None,
    ) -> None:
        """Carry bytes until the other side has sent everything or the user detaches; then close."""
        sock = self.sock
        sock.settimeout(0.0)
        poll = select.poll()
        connection = sock.fileno()
        poll.register(connection, select.POLLIN)
        signal_fd = signals.fd if signals is not None else -1
        if signals is not None:
            poll.register(signal_fd, select.POLLIN)
        stdin = self._stdin
        is_polled = False  # whether stdin is registered
        flush: Callable[[], int] | None = getattr(
            sock, "flush", None
        )  # TLS has its own buffer before the socket
        events_wanted = select.POLLIN
        try:
            if self._early:
                self._show(self._early)
            while True:
                unsent = flush() if flush is not None else 0
                wanted = select.POLLIN | (select.POLLOUT if self._pending or unsent else 0)
                if wanted != events_wanted:
                    poll.modify(connection, wanted)
                    events_wanted = wanted
                if stdin is not None and (not self._pending) != is_polled:
                    if is_polled:
                        poll.unregister(stdin)
                    else:
                        poll.register(stdin, select.POLLIN)
                    is_polled = not is_polled
                for fd, event in poll.poll():
                    if fd == signal_fd:
                        self._tell(signals, on_signal)
                    elif fd == connection:
                        if event & select.POLLOUT:
                            self._send()
                        if event & ~select.POLLOUT and not self._receive():
                            return
                    elif not self._read_stdin(fd):
                        poll.unregister(fd)
                        stdin = None
                        is_polled = False
                        if self.detached:
                            return
        finally:
            sock.close()

    @staticmethod
    def _tell(signals: Signals | None, on_signal: Callable[[int], None] | None) -> None:
        if signals is None:
            return
        for number in signals.taken():
            if on_signal is not None:
                on_signal(number)

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return True
        except ConnectionResetError:
            data = b""
        if not data:
            if self._frames is not None and not self._frames.is_between_frames:
                raise ProtocolError("unexpected EOF")
            return False
        self._show(data)
        return True

    def _show(self, data: bytes) -> None:
        if self._frames is None:
            write_all(1, data)
        else:
            self._frames.feed(data)

    def _read_stdin(self, fd: int) -> bool:
        try:
            data = os.read(fd, 64 * 1024)
        except BlockingIOError:
            return True
        except OSError:
            data = b""  # a terminal that was hung up, or no stdin at all
        if not data:
            self._close_after = True
            if not self._pending:
                self._half_close()
            return False
        if self._keys is not None:
            data, self.detached = self._keys.feed(data)
        self._pending = memoryview(data)
        self._send()
        return not self.detached

    def _send(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[self.sock.send(self._pending) :]
        except (BlockingIOError, InterruptedError):
            return
        except (BrokenPipeError, ConnectionResetError):
            self._pending = memoryview(b"")  # the process is gone: its output and status are still to come
            return
        if self._close_after:
            self._half_close()

    def _half_close(self) -> None:
        try:
            self.sock.shutdown(_socket.SHUT_WR)
        except OSError:
            pass
