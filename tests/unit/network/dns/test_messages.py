"""The wire format, with dnspython as the other opinion."""

from __future__ import annotations

import ipaddress

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.network.dns import messages
from wherry.network.dns.messages import Malformed, parse_query

labels = st.text("abcXYZ019-_", min_size=1, max_size=20)
names = st.lists(labels, min_size=1, max_size=6).map(".".join)


def query(name: str, kind: str = "A", **options: object) -> bytes:
    return dns.message.make_query(name, kind, **options).to_wire()  # pyright: ignore[reportArgumentType]


@given(names, st.sampled_from(["A", "AAAA", "PTR", "MX", "TXT", "HTTPS"]), st.none() | st.integers(0, 65535))
def test_a_question_is_read_as_dnspython_wrote_it(name: str, kind: str, payload: int | None) -> None:
    edns = {} if payload is None else {"use_edns": 0, "payload": payload}
    data = query(name, kind, **edns)
    read = parse_query(data)
    assert read.name == name.lower().encode()
    assert read.kind == dns.rdatatype.from_text(kind)
    assert read.has_edns == (payload is not None)
    assert read.udp_size == max(512, payload or 0)
    assert data.startswith(read.question, 12)


@given(names, st.lists(st.binary(min_size=4, max_size=4), max_size=5), st.booleans())
def test_dnspython_reads_our_answers(name: str, addresses: list[bytes], has_edns: bool) -> None:
    asked = dns.message.make_query(name, "A", use_edns=0 if has_edns else False)
    answer = dns.message.from_wire(messages.reply(parse_query(asked.to_wire()), addresses, ttl=600))
    assert asked.is_response(answer)
    assert answer.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
    assert (answer.edns == 0) == has_edns
    found = [(record.to_text(), rrset.ttl) for rrset in answer.answer for record in rrset]
    assert sorted(found) == sorted({(".".join(map(str, address)), 600) for address in addresses})


@given(st.binary(max_size=600))
def test_random_bytes_are_a_question_or_malformed(data: bytes) -> None:
    try:
        read = parse_query(data)
    except Malformed as exc:
        assert not exc.answer or (len(exc.answer) == 12 and exc.answer[:2] == data[:2])
    else:
        assert dns.message.from_wire(messages.reply(read), ignore_trailing=True).id == read.id


@given(names, st.data())
def test_a_changed_byte_does_not_crash(name: str, draw: st.DataObject) -> None:
    data = bytearray(query(name, use_edns=0))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        parse_query(bytes(data))
    except Malformed:
        pass


@pytest.mark.parametrize(
    ("question", "what"),
    [
        (b"\xc0\x0c\0\1\0\1", "compressed"),  # a pointer to itself: it would be followed for ever
        (b"\1a\xc0\x0c\0\1\0\1", "compressed"),
        (b"\x40" + b"a" * 64 + b"\0\0\1\0\1", "compressed"),
        ((b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1", "too long"),
        (b"\1a", "range"),
        (b"\1a\0\0\1", "buffer"),
        (b"", "range"),
    ],
)
def test_names_that_lead_nowhere_are_refused(question: bytes, what: str) -> None:
    with pytest.raises(Malformed, match=what) as caught:
        parse_query(b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + question)
    assert caught.value.answer == b"\x12\x34\x81\x01\0\0\0\0\0\0\0\0"  # FORMERR


def test_a_dot_within_a_label_is_not_one_between_labels() -> None:
    data = b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\7web.net\0\0\1\0\1"
    assert parse_query(data).name == rb"web\.net"


def test_an_answer_is_not_answered() -> None:
    with pytest.raises(Malformed) as caught:
        parse_query(dns.message.make_response(dns.message.make_query("a", "A")).to_wire())
    assert not caught.value.answer


def test_other_operations_are_not_implemented() -> None:
    data = bytearray(query("a"))
    data[2] |= 5 << 3  # UPDATE
    with pytest.raises(Malformed) as caught:
        parse_query(bytes(data))
    assert dns.message.from_wire(caught.value.answer).rcode() == dns.rcode.NOTIMP


def test_two_questions_are_refused() -> None:
    data = bytearray(query("a"))
    data[5] = 2
    with pytest.raises(Malformed, match="one question"):
        parse_query(bytes(data))


def test_records_that_do_not_fit_are_left_out_and_the_answer_says_so() -> None:
    read = parse_query(query("web"))
    whole = messages.reply(read, [b"\12\0\0%c" % n for n in range(60)], limit=512)
    assert len(whole) <= 512
    answer = dns.message.from_wire(whole)
    assert answer.flags & dns.flags.TC
    assert 0 < len(answer.answer[0]) < 60


def test_an_answer_that_is_too_long_loses_its_records() -> None:
    asked = dns.message.make_query("web", "A", use_edns=0)
    other = dns.message.make_response(asked)
    other.set_rcode(dns.rcode.NXDOMAIN)
    cut = dns.message.from_wire(messages.truncated(parse_query(asked.to_wire()), other.to_wire()))
    assert asked.is_response(cut)
    assert cut.flags & dns.flags.TC
    assert cut.rcode() == dns.rcode.NXDOMAIN


def test_only_an_answer_to_the_question_passes() -> None:
    asked = dns.message.make_query("Web.example", "A")
    question = parse_query(asked.to_wire()).question
    answer = dns.message.make_response(asked).to_wire()
    assert messages.answers_to(answer, asked.id, question) == 0
    assert messages.answers_to(answer.replace(b"Web", b"wEB"), asked.id, question) == 0
    assert messages.answers_to(answer, asked.id ^ 1, question) is None
    assert messages.answers_to(answer.replace(b"Web", b"Wet"), asked.id, question) is None
    assert messages.answers_to(asked.to_wire(), asked.id, question) is None  # itself
    assert messages.answers_to(answer[:11], asked.id, question) is None


def test_a_refusal_without_its_question_passes_and_a_success_does_not() -> None:
    head = b"\0\7\x81%c\0\0\0\0\0\0\0\0"
    assert messages.answers_to(head % 5, 7, b"\1a\0\0\1\0\1") == messages.REFUSED
    assert messages.answers_to(head % 0, 7, b"\1a\0\0\1\0\1") is None
    assert messages.answers_to(head % 3, 7, b"\1a\0\0\1\0\1") is None


@given(st.ip_addresses())
def test_reverse_names(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert messages.address_in(address.reverse_pointer.encode()) == address.packed


@pytest.mark.parametrize(
    "name", [b"1.2.3.in-addr.arpa", b"256.0.0.10.in-addr.arpa", b"-1.0.0.10.in-addr.arpa", b"a", b"ip6.arpa"]
)
def test_other_names_are_no_addresses(name: bytes) -> None:
    assert messages.address_in(name) is None


@given(st.binary(max_size=300))
def test_any_name_is_an_address_or_none(name: bytes) -> None:
    found = messages.address_in(name)
    assert found is None or len(found) in (4, 16)


@pytest.mark.parametrize("name", [b"", b"a..b", b"a" * 64, b".".join([b"a" * 60] * 5)])
def test_what_does_not_fit_into_a_message_is_not_written(name: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        messages.encode_name(name)
