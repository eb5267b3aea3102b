"""The driver local: Docker's own bytes, and what is cut, broken or rotated."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.logs import local_records
from wherry.logs.driver import Entry
from wherry.logs.local import Local
from wherry.logs.local_records import decode

T = 1_795_581_330_691_172_501
# What dockerd 20.10 wrote for "hi", "part", an empty line and "err" on stderr.
RECORDED = bytes.fromhex(
    "000000160a067374646f75741095d1aea9cff6cbf5181a02686900000016000000180a067374646f757410ec86b0a9cf"
    "f6cbf5181a047061727400000018000000120a067374646f757410c996b0a9cff6cbf51800000012000000170a067374"
    "6465727210cdf7ec87d0f6cbf5181a0365727200000017"
)


def write(path, *chunks, options=None):
    writer = Local(str(path), options or {}, {})
    for stream, data, at in chunks:
        writer.write(stream, memoryview(data), at)
    writer.close()
    return path.read_bytes()


def entries_of(path, **options):
    with contextlib.closing(Local.reader(str(path), **options)) as reader:
        return list(reader.entries())


def lines_of(path, **options):
    return [entry.line for entry in entries_of(path, **options)]


def numbered(first, last):
    return [b"n%d\n" % n for n in range(first, last)]


def test_writes_what_docker_writes_and_reads_it_back(tmp_path):
    times = (T, 1795581330691195756, 1795581330691197769, 1795581330889325517)
    chunks = [
        ("stdout", b"hi\n", times[0]),
        ("stdout", b"part\n", times[1]),
        ("stdout", b"\n", times[2]),
        ("stderr", b"err\n", times[3]),
    ]
    assert write(tmp_path / "log", *chunks) == RECORDED
    found, rest = decode(RECORDED)
    assert rest == b""
    assert found == [Entry(at, stream, data, None) for stream, data, at in chunks]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stdout", "stderr"]),
            st.binary(max_size=300) | st.builds(lambda n: b"x" * n, st.integers(16000, 70000)),
        ),
        max_size=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_written_in_whatever_pieces_comes_back(tmp_path_factory, writes):
    path = tmp_path_factory.mktemp("local") / "log"
    write(path, *((stream, data, T) for stream, data in writes))
    entries = entries_of(path)
    for stream in ("stdout", "stderr"):
        written = b"".join(data for name, data in writes if name == stream)
        assert b"".join(entry.line for entry in entries if entry.stream == stream) == written
    count = len(entries)
    for tail in {0, 1, count // 2, count, count + 1}:
        assert entries_of(path, tail=tail) == entries[max(0, count - tail) :]


def test_pieces_of_a_line_have_one_id_and_time_and_are_counted(tmp_path):
    data = write(tmp_path / "log", ("stdout", b"x" * 20000, T), ("stdout", b"x" * 20000 + b"\n", T + 5))
    fields = []
    while data:
        size = int.from_bytes(data[:4], "big")
        record, data = local_records._fields(data[4 : 4 + size]), data[8 + size :]
        details = local_records._fields(record[5])
        fields.append((record[2], record[4], len(record[3]), details[3], details.get(1, 0), details[2]))
    assert [field[:5] for field in fields] == [(T, 1, 16384, 1, 0), (T, 1, 16384, 2, 0), (T, 1, 7232, 3, 1)]
    assert len({field[5] for field in fields}) == 1


def test_old_files_are_packed_and_read_back(tmp_path):
    path = tmp_path / "log"
    lines = numbered(0, 1500)
    write(path, *(("stdout", line, T) for line in lines), options={"max-size": "20k", "max-file": "4"})
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1.gz", "log.2.gz"]
    assert lines_of(path) == lines
    for tail in (1, 500, 1000, 1499):
        assert lines_of(path, tail=tail) == lines[-tail:]


def test_a_record_that_is_not_whole_yet_is_waited_for(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(RECORDED[:-3])
    reader = Local.reader(str(path), tail=2)
    assert [entry.line for entry in reader.entries()] == [b"part\n", b"\n"]
    path.write_bytes(RECORDED)
    assert [entry.line for entry in reader.entries()] == [b"err\n"]
    reader.close()


def test_what_was_overwritten_is_passed_over():
    entries, _ = decode(RECORDED)
    broken = RECORDED[:31] + b"\0" * 40 + RECORDED[31:]
    assert decode(broken)[0] == entries
    assert decode(b"\xff" * 100 + RECORDED)[0] == entries
    spoiled = bytearray(RECORDED)
    spoiled[3] ^= 7  # the first record's length
    assert decode(bytes(spoiled))[0] == entries[1:]


def test_since_goes_back_only_as_far_as_it_must(tmp_path):
    path = tmp_path / "log"
    write(path, *(("stdout", line, T + n) for n, line in enumerate(numbered(0, 50))))
    assert lines_of(path, since_ns=T + 45) == numbered(45, 50)
    assert lines_of(path, since_ns=T + 45, until_ns=T + 46) == numbered(45, 47)
    assert lines_of(path, since_ns=T - 1) == numbered(0, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "a"}, "unknown log opt 'labels' for log driver local"),
        ({"max-size": "x"}, "invalid value for max-size: x: invalid size: 'x'"),
        ({"max-size": "-1"}, "invalid value for max-size: -1: invalid size: '-1'"),
        ({"max-file": "x"}, 'invalid value for max-file: x: strconv.Atoi: parsing "x": invalid syntax'),
        ({"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
        (
            {"compress": "x"},
            'error reading compress log option: strconv.ParseBool: parsing "x": invalid syntax',
        ),
    ],
)
def test_bad_options_are_refused_in_docker_s_words(options, message):
    with pytest.raises(InvalidParameter) as caught:
        Local.validate(options)
    assert str(caught.value) == message
