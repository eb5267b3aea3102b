"""One process's streams: its pipes or terminal on one side, its log and its attached clients on the other.

    stdout, stderr ─ pipes ┐                  ┌─ log driver (container's own process only)
                           ├─ read ≤64 KiB ───┤
             terminal ─────┘                  └─ clients: raw, or in frames of 8 bytes head and data
    stdin ◄─ pipe or terminal ◄─ one queue ◄─── clients that asked for stdin; detach keys taken out

Rules:

* Nothing blocks and nothing is lost. A client that does not read fast enough has at most BACKLOG bytes
  queued; then reading from the process pauses, and with it the process. One client alone may pause it for as
  long as it likes. With company, one that takes nothing for LAGGARD_S seconds is disconnected.
* Without log and client, output is read and dropped.
* A client's half-close is the end of the process's stdin if `close_stdin` says so and there is no terminal;
  the output goes on. Otherwise it is the client's farewell, as in Docker (tried with 20.10): it is sent what
  is queued and let go.
* When the process has ended (`finish`), output is read until its end; if somebody else still holds the pipe,
  until nothing came for QUIET_S, DRAIN_S at most. Then the log is flushed, clients are sent the rest, and
  `on_drained` is called: after FLUSH_S at the latest, since one stuck client must not keep an exit secret.
  The stuck client keeps its place for LAGGARD_S.
* A client's socket is shut for writing, then read until the client hangs up (LINGER_S at most), then closed:
  closing with unread input would reset the connection and take the last output with it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time

from wherry.shim.loop import HANGUP, READ, WRITE
from wherry.shim.reports import report, whereabouts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from wherry.logs.driver import LogWriter
    from wherry.shim.keys import Detacher
    from wherry.shim.loop import Loop, Timer

CHUNK = 65536
BACKLOG = 128 << 10
FINAL_BACKLOG = 4 << 20
"""After the exit: what is left in the pipes must be read, whoever is slow. A pipe holds 1 MiB at most."""
STDIN_BACKLOG = 64 << 10
LAGGARD_S, QUIET_S, DRAIN_S, FLUSH_S, LINGER_S = 60.0, 0.2, 2.0, 2.0, 2.0

STDOUT, STDERR = "stdout", "stderr"

_FRAME = struct.Struct(">BxxxI")
_STREAM_NUMBER = {STDOUT: 1, STDERR: 2}

_buffer = bytearray(CHUNK)
"""What is being read just now. One for the process: it is handed out before anything else is read."""
_view = memoryview(_buffer)


class Client:
    """An attached client's socket and what it is owed."""

    __slots__ = (
        "backlog",
        "closing",
        "detacher",
        "gone",
        "handler",
        "linger",
        "mux",
        "progress_at",
        "reading",
        "sock",
        "wants",
    )

    def __init__(
        self, sock: socket.socket, *, stdin: bool, wants: frozenset[str], mux: bool, detacher: Detacher | None
    ) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.reading = stdin
        """True while this client may still send input."""
        self.wants = wants
        self.mux = mux
        self.detacher = detacher
        self.handler: Callable[[int], None] | None = None
        self.backlog = bytearray()
        self.progress_at = time.monotonic()
        self.gone = False
        """True once it can take no more output."""
        self.closing = False
        """True once it gets what is queued and no more."""
        self.linger: Timer | None = None

    def send(self, head: bytes, data: memoryview) -> None:
        """Send what the socket takes, queue a copy of the rest."""
        if self.gone or self.closing:
            return
        sent = 0
        if not self.backlog:
            try:
                sent = self.sock.sendmsg((head, data)) if head else self.sock.send(data)
            except BlockingIOError:
                pass
            except OSError:
                self.lose()
                return
            if sent == len(head) + len(data):
                return
            self.progress_at = time.monotonic()
        if sent < len(head):
            self.backlog += head[sent:]
            sent = len(head)
        self.backlog += data[sent - len(head) :]

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        try:
            while self.backlog:
                sent = self.sock.send(self.backlog)
                self.progress_at = time.monotonic()
                if sent == len(self.backlog):
                    self.backlog = bytearray()  # cutting would keep its memory
                else:
                    del self.backlog[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.lose()

    def lose(self) -> None:
        """It hung up: what it is owed is void."""
        self.gone = True
        self.backlog = bytearray()


class Stdio:
    """Pumps one process's streams. Owns every descriptor it is given.

    `sources` are the non-blocking read ends by stream name; `console` is the terminal's master, which is
    source and sink in one. `on_detach` tells that a client typed the detach keys.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        sources: dict[str, int],
        stdin: int = -1,
        console: int = -1,
        log: LogWriter | None = None,
        close_stdin: bool = True,
        on_detach: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._sources = dict(sources)
        self._stdin = stdin
        self.console = console
        self._is_terminal = console >= 0
        if console >= 0:
            # Two numbers for one terminal, so that reading and writing can be waited for apart.
            self._sources[STDOUT] = os.dup(console)
            self._stdin = os.dup(console)
        self.log = log
        self._close_stdin = close_stdin and not self._is_terminal
        self._on_detach = on_detach
        self._clients: list[Client] = []
        self._settled: list[Client] = []
        self._farewells: list[Client] = []
        self._stdin_queue = bytearray()
        self._stdin_ends = False
        self._paused = False
        self._ended = False
        self._laggards: Timer | None = None
        self._finishing: Callable[[], None] | None = None
        self._limit = BACKLOG
        self._quiet: Timer | None = None
        self._deadline: Timer | None = None
        for fd in (*self._sources.values(), self._stdin):
            if fd >= 0:
                os.set_blocking(fd, False)
        self._readers: dict[str, Callable[[int], None]] = {
            stream: lambda _, s=stream, f=fd: self._on_source(s, f) for stream, fd in self._sources.items()
        }
        self._resume()

    # Clients

    def attach(self, client: Client, pending: bytes = b"") -> None:
        """Add a client. `pending` is input it sent before its socket was handed over."""
        self._clients.append(client)
        client.handler = lambda bits: self._on_client(client, bits)
        if client.reading and pending:
            self._input(client, pending)
        self._wait_for(client)

    @property
    def is_idle(self) -> bool:
        """True once no client is owed anything, after the end."""
        return not self._clients and not self._settled and not self._farewells

    @property
    def client_count(self) -> int:
        """How many clients' connections are open."""
        return len(self._clients) + len(self._settled) + len(self._farewells)

    def _wait_for(self, client: Client) -> None:
        """Watch exactly what can be dealt with now."""
        if client.linger is not None:
            return
        fd = client.sock.fileno()
        if client.closing and not client.backlog:
            if self._finishing is not None and self._ended:
                self._settle(client)
            else:
                self._bid_farewell(client)
            return
        mask = 0
        if client.reading and len(self._stdin_queue) < STDIN_BACKLOG:
            mask |= READ
        if client.backlog:
            mask |= WRITE
        if client.gone and not client.reading:
            self._drop(client)
        elif client.gone and not mask:
            self._loop.forget(fd)  # its hang-up would be reported without end; its input waits for room
        elif client.handler is not None:
            self._loop.watch(fd, mask, client.handler)

    def _on_client(self, client: Client, bits: int) -> None:
        if bits & HANGUP:
            client.lose()
        if bits & WRITE and not client.gone:
            client.flush()
        if client.reading and bits & (READ | HANGUP) and len(self._stdin_queue) < STDIN_BACKLOG:
            self._read_client(client)
        if client in self._clients:
            self._wait_for(client)
        self._balance()

    def _read_client(self, client: Client) -> None:
        try:
            count = client.sock.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
            client.lose()
        if count:
            self._input(client, _view[:count])
            return
        client.reading = False
        if self._close_stdin:
            self._stdin_ends = True
            self._write_stdin()
        else:
            client.closing = True

    def _input(self, client: Client, data: bytes | memoryview) -> None:
        if client.detacher is not None:
            data = client.detacher.feed(bytes(data))
            if client.detacher.detached:
                client.reading = False
                client.closing = True
                if self._on_detach is not None:
                    self._on_detach()
        if not data or self._stdin < 0 or self._stdin_ends:
            return
        if not self._stdin_queue:
            data = data[self._put(data) :]
        if data and self._stdin >= 0:
            self._stdin_queue += data
            self._loop.watch(self._stdin, WRITE, self._on_stdin)

    def _settle(self, client: Client) -> None:
        """It has every byte. Its end of output waits until the exit is told: who sees the end may ask for the code."""
        self._loop.forget(client.sock.fileno())
        self._clients.remove(client)
        self._settled.append(client)
        self._after_client()

    def _bid_farewell(self, client: Client) -> None:
        """End its output, then wait for it to hang up."""
        fd = client.sock.fileno()
        if client in self._clients:
            self._clients.remove(client)
        self._loop.forget(fd)
        try:
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            client.sock.close()
            self._after_client()
            return
        self._farewells.append(client)
        client.linger = self._loop.later(LINGER_S, lambda: self._part(client))
        self._loop.watch(fd, READ, lambda bits: self._on_lingering(client, bits))
        self._after_client()

    def _on_lingering(self, client: Client, bits: int) -> None:
        try:
            if client.sock.recv_into(_buffer):
                return
        except BlockingIOError:
            if not bits & HANGUP:
                return
        except OSError:
            pass
        self._part(client)

    def _part(self, client: Client) -> None:
        if client.linger is not None:
            client.linger.cancel()
        self._loop.forget(client.sock.fileno())
        client.sock.close()
        self._farewells.remove(client)

    def _drop(self, client: Client) -> None:
        self._loop.forget(client.sock.fileno())
        client.sock.close()
        self._clients.remove(client)
        self._after_client()

    def _after_client(self) -> None:
        if self._ended and not self._clients:
            self._tell()

    # Input

    def _put(self, data: bytes | bytearray | memoryview) -> int:
        """Write what the process's stdin takes; all of it is taken (and dropped) once nobody can read it."""
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0
        except OSError:
            self._end_stdin()  # EPIPE: the process closed it; EIO: its terminal is gone
            return len(data)

    def _write_stdin(self) -> None:
        while self._stdin_queue:
            written = self._put(self._stdin_queue)
            if not written:
                return
            del self._stdin_queue[:written]
        if self._stdin >= 0:
            self._stdin_queue = bytearray()
            self._loop.forget(self._stdin)
            if self._stdin_ends:
                self._end_stdin()

    def _on_stdin(self, bits: int) -> None:
        self._write_stdin()
        if len(self._stdin_queue) < STDIN_BACKLOG:
            for client in list(self._clients):
                if client.reading:
                    self._wait_for(client)

    def _end_stdin(self) -> None:
        if self._stdin >= 0:
            self._loop.forget(self._stdin)
            os.close(self._stdin)
            self._stdin = -1
            self._stdin_queue = bytearray()

    # Output

    def _on_source(self, stream: str, fd: int) -> None:
        try:
            count = os.readv(fd, (_buffer,))
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno != errno.EIO:  # EIO: nobody holds the terminal any more
                raise
            count = 0
        if count == 0:
            self._end_source(stream)
            return
        data = _view[:count]
        if self.log is not None:
            self._write_log(stream, data)
        if self._clients:
            head = _FRAME.pack(_STREAM_NUMBER[stream], count)
            for client in list(self._clients):
                if stream in client.wants:
                    client.send(head if client.mux else b"", data)
                    if client.backlog or client.gone:
                        self._wait_for(client)
            self._balance()
        if self._quiet is not None:
            self._quiet.cancel()
            self._quiet = self._loop.later(QUIET_S, self._end_output)

    def _write_log(self, stream: str, data: memoryview) -> None:
        assert self.log is not None
        try:
            self.log.write(stream, data, time.time_ns())
        except Exception as exc:  # a driver may be anybody's, and the container must not die of it
            report(f"the log has ended: {whereabouts(exc)}")
            self.log = None

    def _close_log(self) -> None:
        try:
            if self.log is not None:
                self.log.close()
        except Exception as exc:
            report(f"the log is incomplete: {whereabouts(exc)}")

    def _end_source(self, stream: str) -> None:
        fd = self._sources.pop(stream)
        self._loop.forget(fd)
        os.close(fd)
        if not self._sources and self._finishing is not None:
            self._end_output()

    def _balance(self) -> None:
        """Pause reading while any client is too far behind; go on when none is."""
        behind = [client for client in self._clients if len(client.backlog) > self._limit and not client.gone]
        if behind and not self._paused:
            self._paused = True
            for fd in self._sources.values():
                self._loop.forget(fd)
            self._look_for_laggards()
        elif not behind and self._paused:
            self._paused = False
            if self._laggards is not None:
                self._laggards.cancel()
            self._resume()

    def _resume(self) -> None:
        for stream, fd in self._sources.items():
            self._loop.watch(fd, READ, self._readers[stream])

    def _look_for_laggards(self) -> None:
        if len(self._clients) > 1 or self._ended:
            limit = time.monotonic() - LAGGARD_S
            for client in [c for c in self._clients if c.backlog and c.progress_at < limit]:
                self._drop(client)
            self._balance()
        if self._paused or (self._ended and self._clients):
            self._laggards = self._loop.later(LAGGARD_S / 12, self._look_for_laggards)

    # The end

    def finish(self, on_drained: Callable[[], None]) -> None:
        """The process has ended: read what is left, then call `on_drained`, once."""
        self._finishing = on_drained
        self._limit = FINAL_BACKLOG
        self._balance()
        if not self._sources:
            self._end_output()
            return
        self._quiet = self._loop.later(QUIET_S, self._end_output)
        self._deadline = self._loop.later(DRAIN_S, self._end_output)

    def _end_output(self) -> None:
        for timer in (self._quiet, self._deadline):
            if timer is not None:
                timer.cancel()
        self._quiet = self._deadline = None
        for stream in list(self._sources):
            fd = self._sources.pop(stream)
            self._loop.forget(fd)
            os.close(fd)
        self._stdin_ends = True
        self._end_stdin()
        if self.console >= 0:
            os.close(self.console)
            self.console = -1
        self._close_log()
        self._ended = True
        self._deadline = self._loop.later(FLUSH_S, self._tell)
        for client in list(self._clients):
            client.reading = False
            client.closing = True
            self._wait_for(client)
        self._after_client()
        self._look_for_laggards()

    def _tell(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._finishing is not None:
            finishing, self._finishing = self._finishing, None
            finishing()
        settled, self._settled = self._settled, []
        for client in settled:
            self._bid_farewell(client)
