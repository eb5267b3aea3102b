"""DNS messages as far as a forwarder with names of its own needs them: RFC 1035 §4, and the OPT record of RFC 6891.

Questions are read, and answers to them written. What others answer is not taken apart: it is checked to be an answer
to what was asked and passed on. Everything read here is hostile, so nothing follows a compression pointer.

Names are bytes in lower case, labels joined by dots, without a dot at the end. A dot or backslash within a label is
escaped by a backslash, so it cannot pass for another name.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

A, PTR, AAAA, OPT = 1, 12, 28, 41
IN = 1

NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NAME_ERROR, NOT_IMPLEMENTED, REFUSED = range(6)

MIN_UDP_SIZE = 512
MAX_SIZE = 65535
OUR_UDP_SIZE = 1232
"""What we say we take by UDP: fits every path without fragments (the resolvers' agreement of 2020)."""

_HEADER = struct.Struct("!6H")
_KIND = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")  # behind its name: type, class, TTL, length of the data
_ANSWER_HEAD = struct.Struct("!HHHIH")  # with a pointer to the question's name in front
_RESPONSE, _OPCODE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION, _CHECKING = (
    0x8000, 0x7800, 0x0200, 0x0100, 0x0080, 0x0010,
)  # fmt: skip
_TO_QUESTION = 0xC000 | _HEADER.size
_MAX_LABEL, _MAX_NAME = 63, 255
_OPT_RECORD = b"\0" + _RECORD.pack(OPT, OUR_UDP_SIZE, 0, 0)


class Query(NamedTuple):
    """A question somebody asks."""

    id: int
    flags: int
    name: bytes
    kind: int  # A, AAAA, …
    klass: int
    question: bytes  # as it came, letter case included
    has_edns: bool
    udp_size: int  # the largest answer that its sender takes by UDP


class Malformed(Exception):
    """Not a question we can answer. `answer`: what to say all the same; empty for nothing."""

    def __init__(self, what: str, answer: bytes = b"") -> None:
        super().__init__(what)
        self.answer = answer


def parse_query(data: bytes) -> Query:
    """The one question in `data`. Raises Malformed."""
    if len(data) < _HEADER.size:
        raise Malformed("shorter than a header")
    query_id, flags, questions, answers, authorities, additions = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise Malformed("an answer, not a question")  # answering it could go round in circles
    if flags & _OPCODE:
        raise Malformed("not a standard query", _refusal(query_id, flags, NOT_IMPLEMENTED))
    try:
        if questions != 1:
            raise ValueError("not one question")
        name, at = _read_name(data, _HEADER.size)
        kind, klass = _KIND.unpack_from(data, at)
        end = at + _KIND.size
        has_edns, udp_size = _find_edns(data, end, answers + authorities, additions)
    except (ValueError, IndexError, struct.error) as exc:
        raise Malformed(str(exc), _refusal(query_id, flags, FORMAT_ERROR)) from exc
    question = data[_HEADER.size : end]
    return Query(query_id, flags, name, kind, klass, question, has_edns, udp_size)


def reply(
    query: Query, answers: Sequence[bytes] = (), *, ttl: int = 0, code: int = NO_ERROR, limit: int = MAX_SIZE
) -> bytes:
    """The answer with these records' data, all of the type asked for. What exceeds `limit` bytes is left out, and
    the answer marked as cut."""
    head = len(query.question) + _HEADER.size
    tail = _OPT_RECORD if query.has_edns else b""
    room = limit - head - len(tail)
    flags = _RESPONSE | _RECURSION | query.flags & (_RECURSION_DESIRED | _CHECKING) | code
    records: list[bytes] = []
    for data in answers:
        room -= _ANSWER_HEAD.size + len(data)
        if room < 0:
            flags |= _TRUNCATED
            break
        records.append(_ANSWER_HEAD.pack(_TO_QUESTION, query.kind, IN, ttl, len(data)) + data)
    counts = _HEADER.pack(query.id, flags, 1, len(records), 0, 1 if tail else 0)
    return b"".join((counts, query.question, *records, tail))


def truncated(query: Query, data: bytes) -> bytes:
    """Instead of somebody's answer `data` that is too long: the same without records, marked as cut."""
    (flags,) = struct.unpack_from("!H", data, 2)
    tail = _OPT_RECORD if query.has_edns else b""
    return _HEADER.pack(query.id, flags | _TRUNCATED, 1, 0, 0, 1 if tail else 0) + query.question + tail


def with_id(data: bytes, number: int) -> bytes:
    """The message under another id."""
    return number.to_bytes(2) + data[2:]


def answers_to(data: bytes, number: int, question: bytes) -> int | None:
    """The response code of `data`, if it is an answer to `question` asked under the id `number`; None if it is not.

    Some servers leave the question out when they refuse: that passes too, but never with a success.
    """
    if len(data) < _HEADER.size:
        return None
    found, flags, questions, *_ = _HEADER.unpack_from(data)
    if found != number or not flags & _RESPONSE:
        return None
    code = flags & 15
    if (
        questions == 0
        and len(data) == _HEADER.size
        and code in (FORMAT_ERROR, SERVER_FAILURE, NOT_IMPLEMENTED, REFUSED)
    ):
        return code
    start = _HEADER.size
    if questions != 1 or data[start : start + len(question)].lower() != question.lower():
        return None
    return code


def address_in(name: bytes) -> bytes | None:
    """The address (4 or 16 bytes) that a reverse name such as 2.0.18.172.in-addr.arpa asks about."""
    labels = name.split(b".")
    try:
        if labels[4:] == [b"in-addr", b"arpa"]:
            return bytes(_decimal(label) for label in labels[3::-1])
        if labels[32:] == [b"ip6", b"arpa"] and all(len(label) == 1 for label in labels[:32]):
            return bytes.fromhex(b"".join(labels[31::-1]).decode())
    except ValueError:
        pass
    return None


def encode_name(name: bytes) -> bytes:
    """A name as the data of a PTR record. Raises ValueError for one that does not fit into a message."""
    encoded = b"".join(_label(label) for label in name.split(b".")) + b"\0"
    if len(encoded) > _MAX_NAME:
        raise ValueError(f"name of {len(encoded)} bytes")
    return encoded


def _label(label: bytes) -> bytes:
    if not 0 < len(label) <= _MAX_LABEL:
        raise ValueError(f"label of {len(label)} bytes")
    return bytes((len(label),)) + label


def _decimal(label: bytes) -> int:
    if not label.isdigit() or len(label) > 3:
        raise ValueError("not a number")
    return int(label)  # bytes() refuses what exceeds 255


def _read_name(data: bytes, at: int) -> tuple[bytes, int]:
    labels: list[bytes] = []
    start = at
    while length := data[at]:
        if length > _MAX_LABEL:
            raise ValueError("a compressed name in the question")
        label = data[at + 1 : at + 1 + length]
        if b"." in label or b"\\" in label:
            label = label.replace(b"\\", b"\\\\").replace(b".", b"\\.")
        labels.append(label)
        at += 1 + length
    if at + 1 - start > _MAX_NAME:
        raise ValueError("a name too long")
    return b".".join(labels).lower(), at + 1


def _skip_name(data: bytes, at: int) -> int:
    while length := data[at]:
        if length >= 0xC0:
            return at + 2
        if length > _MAX_LABEL:
            raise ValueError("a label of unknown kind")
        at += 1 + length
    return at + 1


def _find_edns(data: bytes, at: int, others: int, additions: int) -> tuple[bool, int]:
    """Whether there is an OPT record among the `additions`, which follow `others`, and the size it allows."""
    for number in range(others + additions):
        is_root = data[at] == 0
        at = _skip_name(data, at)
        kind, klass, _, length = _RECORD.unpack_from(data, at)
        at += _RECORD.size + length
        if at > len(data):
            raise ValueError("a record cut off")
        if number >= others and kind == OPT and is_root:
            return True, max(MIN_UDP_SIZE, klass)
    return False, MIN_UDP_SIZE


def _refusal(query_id: int, flags: int, code: int) -> bytes:
    return _HEADER.pack(query_id, _RESPONSE | flags & (_OPCODE | _RECURSION_DESIRED) | code, 0, 0, 0, 0)
