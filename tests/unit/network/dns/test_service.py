"""The whole service in a network namespace of its own, asked from there as a container would."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from tests.unit.network.conftest import eventually, inside
from wherry.network.dns import resolver, upstream
from wherry.network.dns.namespace import NameSockets
from wherry.network.dns.resolver import View
from wherry.network.dns.service import NameService
from wherry.network.dns.zone import member
from wherry.network.sandboxes import Maker, Sandbox

Answer = dns.message.Message
VIEW = View(networks=("1",), servers=("127.0.0.1",))


@pytest.fixture
async def service(maker: Maker) -> AsyncIterator[NameService]:
    made = NameService()
    made.zone.join("1", "front", member("web-id", ["web", "shop"], ["10.0.1.2"]))
    made.zone.join("1", "front", member("web2-id", ["web2", "shop"], ["10.0.1.3", "fd00::3"]))
    yield made
    made.close()


@pytest.fixture
async def sandbox(maker: Maker) -> AsyncIterator[Sandbox]:
    made = await maker.run(maker.make)
    yield made
    made.close()


@pytest.fixture
async def served(service: NameService, sandbox: Sandbox) -> NameService:
    service.serve("c", await service.open_sockets(sandbox.netns), sandbox.netns, VIEW)
    return service


class Other:
    """A resolver on port 53 of the container's own, at which `answer` decides what is said. Counts questions."""

    def __init__(self, netns: int, address: str = "0.0.0.0") -> None:
        self.asked: list[dns.message.Message] = []
        self.answer: Callable[[Answer], bytes | None] = self.echo
        self.udp = inside(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self.udp.bind((address, 53))
        self.tcp = inside(netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        self.tcp.bind((address, 53))
        self.tcp.listen()
        for sock in (self.udp, self.tcp):
            sock.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self.udp, self._on_datagram)
        self._serving = loop.create_task(self._serve())

    def echo(self, query: Answer) -> bytes:
        reply = dns.message.make_response(query)
        reply.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "TXT", '"other"'))
        return reply.to_wire()

    def _on_datagram(self) -> None:
        data, sender = self.udp.recvfrom(4096)
        self.asked.append(dns.message.from_wire(data))
        answer = self.answer(self.asked[-1])
        if answer is not None:
            self.udp.sendto(answer, sender)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self.tcp)
            data = await loop.sock_recv(sock, 4096)
            self.asked.append(dns.message.from_wire(data[2:]))
            answer = self.answer(self.asked[-1])
            if answer is not None:
                await loop.sock_sendall(sock, len(answer).to_bytes(2) + answer)
            sock.close()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.udp)
        self._serving.cancel()
        self.udp.close()
        self.tcp.close()


@pytest.fixture
async def other(sandbox: Sandbox) -> AsyncIterator[Other]:
    made = Other(sandbox.netns)
    yield made
    made.close()


async def ask(
    sandbox: Sandbox,
    name: str,
    kind: str = "A",
    *,
    tcp: bool = False,
    timeout_s: float = 20,
    **options: object,
) -> Answer:
    """What 127.0.0.11 says."""
    query = dns.message.make_query(name, kind, **options)  # pyright: ignore[reportArgumentType]
    step = dns.query.tcp if tcp else dns.query.udp
    return await asyncio.to_thread(
        inside, sandbox.netns, lambda: step(query, "127.0.0.11", timeout=timeout_s)
    )


def addresses(answer: Answer) -> set[str]:
    return {record.to_text() for rrset in answer.answer for record in rrset}


@pytest.mark.parametrize("tcp", [False, True])
async def test_names_are_answered(served: NameService, sandbox: Sandbox, tcp: bool) -> None:
    answer = await ask(sandbox, "WEB", tcp=tcp)
    assert addresses(answer) == {"10.0.1.2"}
    assert answer.answer[0].ttl == 600
    assert answer.answer[0].name.to_text() == "WEB."  # the letters are the asker's
    assert addresses(await ask(sandbox, "web2.front", "AAAA", tcp=tcp)) == {"fd00::3"}
    assert addresses(await ask(sandbox, "2.1.0.10.in-addr.arpa", "PTR", tcp=tcp)) == {"web.front."}


async def test_a_name_has_no_other_records_and_nobody_else_is_asked(
    served: NameService, sandbox: Sandbox, other: Other
) -> None:
    for kind in ("AAAA", "MX", "TXT", "HTTPS"):
        answer = await ask(sandbox, "web", kind)
        assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
    assert not other.asked


async def test_all_who_share_a_name_take_turns(served: NameService, sandbox: Sandbox) -> None:
    firsts: set[str] = set()
    for _ in range(60):
        answer = await ask(sandbox, "shop")
        assert addresses(answer) == {"10.0.1.2", "10.0.1.3"}
        firsts.add(next(iter(answer.answer[0])).to_text())
    assert firsts == {"10.0.1.2", "10.0.1.3"}


async def test_many_addresses_are_cut_by_udp_and_whole_by_tcp(served: NameService, sandbox: Sandbox) -> None:
    for number in range(1, 200):
        served.zone.join("1", "front", member(f"m{number}", ["many"], [f"10.0.3.{number}"]))
    cut = await ask(sandbox, "many")
    assert cut.flags & dns.flags.TC
    assert 0 < len(cut.answer[0]) < 199
    assert len((await ask(sandbox, "many", use_edns=0, payload=4096)).answer[0]) == 199
    assert len((await ask(sandbox, "many", tcp=True)).answer[0]) == 199


@pytest.mark.parametrize("tcp", [False, True])
async def test_the_rest_is_asked_of_others_as_it_came(
    served: NameService, sandbox: Sandbox, other: Other, tcp: bool
) -> None:
    answer = await ask(sandbox, "example.com", "TXT", tcp=tcp, use_edns=0, want_dnssec=True)
    assert addresses(answer) == {'"other"'}
    assert other.asked[0].ednsflags & dns.flags.DO


async def test_a_container_has_port_53_for_itself(
    served: NameService, sandbox: Sandbox, other: Other
) -> None:
    query = dns.message.make_query("example.com", "TXT")
    own = await asyncio.to_thread(
        inside, sandbox.netns, lambda: dns.query.udp(query, "127.0.0.1", timeout=20)
    )
    assert addresses(own) == {'"other"'}


async def test_an_internal_network_asks_nobody(served: NameService, sandbox: Sandbox, other: Other) -> None:
    served.update("c", View(networks=("1",), servers=("127.0.0.1",), is_external=False))
    for tcp in (False, True):
        assert (await ask(sandbox, "example.com", tcp=tcp)).rcode() == dns.rcode.SERVFAIL
    assert addresses(await ask(sandbox, "web")) == {"10.0.1.2"}
    assert not other.asked


async def test_with_ndots_set_single_labels_stay_here(
    served: NameService, sandbox: Sandbox, other: Other
) -> None:
    served.update("c", View(networks=("1",), servers=("127.0.0.1",), keeps_single_labels=True))
    assert (await ask(sandbox, "printer")).rcode() == dns.rcode.NOERROR
    assert not other.asked
    await ask(sandbox, "printer.lan")
    assert other.asked


async def test_who_is_not_on_the_network_finds_nobody(
    served: NameService, sandbox: Sandbox, other: Other
) -> None:
    served.update("c", View(networks=("2",), servers=("127.0.0.1",)))
    other.answer = lambda query: refusal(query, dns.rcode.NXDOMAIN)
    assert (await ask(sandbox, "web")).rcode() == dns.rcode.NXDOMAIN


def refusal(query: Answer, code: dns.rcode.Rcode) -> bytes:
    reply = dns.message.make_response(query)
    reply.set_rcode(code)
    return reply.to_wire()


@pytest.mark.parametrize("code", [dns.rcode.REFUSED, dns.rcode.SERVFAIL])
@pytest.mark.parametrize("tcp", [False, True])
async def test_the_next_server_is_asked_when_one_refuses(
    service: NameService, sandbox: Sandbox, code: dns.rcode.Rcode, tcp: bool
) -> None:
    view = View(networks=("1",), servers=("127.0.0.7", "127.0.0.8"))
    service.serve("c", await service.open_sockets(sandbox.netns), sandbox.netns, view)
    first, second = Other(sandbox.netns, "127.0.0.7"), Other(sandbox.netns, "127.0.0.8")
    first.answer = lambda query: refusal(query, code)
    try:
        assert addresses(await ask(sandbox, "example.com", "TXT", tcp=tcp)) == {'"other"'}
        assert (len(first.asked), len(second.asked)) == (1, 1)
    finally:
        first.close()
        second.close()


async def test_a_silent_server_is_asked_again(
    served: NameService, sandbox: Sandbox, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "PATIENCE_S", 0.05)
    other.answer = lambda query: other.echo(query) if len(other.asked) > 1 else None
    assert addresses(await ask(sandbox, "example.com", "TXT")) == {'"other"'}
    assert other.asked[0].id != other.asked[1].id


async def test_silence_has_an_end(
    served: NameService, sandbox: Sandbox, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "TIME_LIMIT_S", 0.2)
    other.answer = lambda query: None
    for tcp in (False, True):
        assert (await ask(sandbox, "example.com", tcp=tcp)).rcode() == dns.rcode.SERVFAIL


async def test_a_server_that_is_not_there_is_no_reason_to_wait(served: NameService, sandbox: Sandbox) -> None:
    for tcp in (False, True):
        assert (await ask(sandbox, "example.com", tcp=tcp)).rcode() == dns.rcode.SERVFAIL


async def test_only_an_answer_to_the_question_is_taken(
    served: NameService, sandbox: Sandbox, other: Other
) -> None:
    def answer(query: Answer) -> bytes:
        right = other.echo(query)
        sender = other.udp  # what follows arrives before the right one
        wrong_id = bytes([right[0] ^ 1]) + right[1:]
        elsewhere = dns.message.make_query("evil.example", "TXT", id=query.id)
        to = senders[-1]
        for false in (wrong_id, other.echo(elsewhere), b"", right[:5], query.to_wire()):
            sender.sendto(false, to)
        return right

    senders: list[object] = []
    receive = other.udp.recvfrom

    class Noting:
        def __getattr__(self, name: str) -> object:
            return getattr(udp, name)

        def recvfrom(self, size: int) -> object:
            data, sender = receive(size)
            senders.append(sender)
            return data, sender

    udp = other.udp
    other.udp = Noting()  # pyright: ignore[reportAttributeAccessIssue]
    other.answer = answer
    found = await ask(sandbox, "example.com", "TXT")
    other.udp = udp
    assert found.answer[0].name.to_text() == "example.com."


async def test_an_answer_longer_than_the_asker_takes_is_cut(
    served: NameService, sandbox: Sandbox, other: Other
) -> None:
    def long(query: Answer) -> bytes:
        reply = dns.message.make_response(query)
        for number in range(100):
            reply.answer.append(dns.rrset.from_text(f"n{number}.example.com.", 5, "IN", "A", "10.0.0.1"))
        return reply.to_wire()

    other.answer = long
    cut = await ask(sandbox, "example.com")
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    assert len((await ask(sandbox, "example.com", tcp=True)).answer) == 100


async def test_more_questions_than_may_be_under_way_are_refused(
    served: NameService, sandbox: Sandbox, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "MAX_FORWARDED", 1)
    monkeypatch.setattr(upstream, "TIME_LIMIT_S", 1)
    other.answer = lambda query: None
    first = asyncio.create_task(ask(sandbox, "example.com"))
    await eventually(lambda: bool(other.asked))
    assert (await ask(sandbox, "example.com")).rcode() == dns.rcode.REFUSED
    assert addresses(await ask(sandbox, "web")) == {"10.0.1.2"}
    assert (await first).rcode() == dns.rcode.SERVFAIL


def talk(sandbox: Sandbox) -> socket.socket:
    """A TCP connection to 127.0.0.11, not blocking."""

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.11", 53), timeout=20)

    sock = inside(sandbox.netns, connect)
    sock.setblocking(False)
    return sock


def framed(*names: str) -> bytes:
    messages = [dns.message.make_query(name, "A").to_wire() for name in names]
    return b"".join(len(data).to_bytes(2) + data for data in messages)


async def read_answers(sock: socket.socket, count: int) -> list[Answer]:
    loop = asyncio.get_running_loop()
    data = b""
    found: list[Answer] = []
    while len(found) < count:
        more = await asyncio.wait_for(loop.sock_recv(sock, 65536), 20)
        assert more, f"hung up after {len(found)} answers"
        data += more
        while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2]):
            size = int.from_bytes(data[:2])
            found.append(dns.message.from_wire(data[2 : 2 + size]))
            data = data[2 + size :]
    return found


async def test_one_connection_carries_many_questions(
    served: NameService, sandbox: Sandbox, other: Other
) -> None:
    loop = asyncio.get_running_loop()
    with talk(sandbox) as sock:
        questions = framed(*["web", "example.com", "web2"] * 50)
        for at in range(0, len(questions), 7):  # cut anyhow
            await loop.sock_sendall(sock, questions[at : at + 7])
        assert len(await read_answers(sock, 150)) == 150
        sock.shutdown(socket.SHUT_WR)
        assert await asyncio.wait_for(loop.sock_recv(sock, 1), 20) == b""


async def test_a_client_that_sends_all_and_shuts_is_still_answered(
    served: NameService, sandbox: Sandbox
) -> None:
    with talk(sandbox) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, framed("web", "example.com"))
        sock.shutdown(socket.SHUT_WR)
        assert len(await read_answers(sock, 2)) == 2


async def test_an_idle_connection_is_closed(
    served: NameService, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "IDLE_S", 0.05)
    with talk(sandbox) as sock:
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 20) == b""


async def test_a_message_of_absurd_size_ends_the_connection(served: NameService, sandbox: Sandbox) -> None:
    with talk(sandbox) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, b"\xff\xff")
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), 20) == b""


async def test_connections_are_bounded(
    served: NameService, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "MAX_CONNECTIONS", 1)
    with talk(sandbox) as first, talk(sandbox) as second:
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(second, 1), 20) == b""
        await asyncio.get_running_loop().sock_sendall(first, framed("web"))
        assert len(await read_answers(first, 1)) == 1
    assert addresses(await ask(sandbox, "web", tcp=True)) == {"10.0.1.2"}  # there is room again


async def test_a_client_that_does_not_read_is_given_up(
    served: NameService, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "IDLE_S", 0.3)
    loop = asyncio.get_running_loop()
    with talk(sandbox) as sock, pytest.raises((OSError, TimeoutError)):
        while True:
            await asyncio.wait_for(loop.sock_sendall(sock, framed(*["web"] * 1000)), 20)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0" * 11, os.urandom(500), b"\0\1\1\0\xff\xff\0\0\0\0\0\0"])
async def test_rubbish_hurts_nobody(served: NameService, sandbox: Sandbox, data: bytes) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.sendto(data, ("127.0.0.11", 53))

    await asyncio.to_thread(inside, sandbox.netns, send)
    with talk(sandbox) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, len(data).to_bytes(2) + data + framed("web"))
        assert await read_answers(sock, 1)
    assert addresses(await ask(sandbox, "web")) == {"10.0.1.2"}


async def test_questions_wait_in_the_sockets_for_the_next_daemon(
    service: NameService, sandbox: Sandbox
) -> None:
    sockets = await service.open_sockets(sandbox.netns)
    kept = [os.dup(descriptor) for descriptor in sockets.descriptors().values()]
    sockets.close()  # as when a daemon is killed: nobody reads, but somebody keeps
    asked = [asyncio.create_task(ask(sandbox, "web", tcp=tcp)) for tcp in (False, True)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in asked)
    service.serve("c", NameSockets.of(*kept), sandbox.netns, VIEW)
    for task in asked:
        assert addresses(await task) == {"10.0.1.2"}


async def test_sockets_opened_again_take_the_others_place(service: NameService, sandbox: Sandbox) -> None:
    service.serve("c", await service.open_sockets(sandbox.netns), sandbox.netns, VIEW)
    service.serve("c", await service.open_sockets(sandbox.netns), sandbox.netns, VIEW)
    for tcp in (False, True):
        assert addresses(await ask(sandbox, "web", tcp=tcp)) == {"10.0.1.2"}


async def test_without_nftables_it_listens_on_the_port_itself(
    service: NameService, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wherry.network.nft.shutil.which", lambda name: "/nonexistent/nft")
    sockets = await service.open_sockets(sandbox.netns)
    assert sockets.udp.getsockname() == sockets.tcp.getsockname() == ("127.0.0.11", 53)
    service.serve("c", sockets, sandbox.netns, VIEW)
    assert addresses(await ask(sandbox, "web")) == {"10.0.1.2"}


@pytest.fixture
def descriptors() -> Iterator[Callable[[], int]]:
    yield lambda: len(os.listdir("/proc/self/fd"))


async def test_nothing_stays_when_it_stops(
    service: NameService, sandbox: Sandbox, descriptors: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "TIME_LIMIT_S", 0.5)
    before = descriptors()
    service.serve("c", await service.open_sockets(sandbox.netns), sandbox.netns, VIEW)
    await ask(sandbox, "example.com")
    service.stop("c")
    service.stop("c")
    assert not service.is_serving("c")
    await eventually(lambda: descriptors() == before)
