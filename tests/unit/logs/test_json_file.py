"""The json-file writer, against what Docker 20.10 wrote and against a plain model of it."""

from __future__ import annotations

import errno
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.errors import InvalidParameter
from wherry.logs import rotation
from wherry.logs.json_file import JsonFile, escape, timestamp
from wherry.logs.json_records import parse_time
from wherry.logs.options import parse_size

T = 1_764_000_000_123_456_700


def write(path, *chunks, options=None, attrs=None, stream="stdout", at=T):
    writer = JsonFile(str(path), options or {}, attrs or {})
    for chunk in chunks:
        writer.write(stream, memoryview(chunk), at)
    writer.close()
    return path.read_bytes()


# What dockerd 20.10 wrote for these bytes, recorded.
@pytest.mark.parametrize(
    ("raw", "log"),
    [
        (b'a\tb"q\\<x>&\r\n', rb"a\u0009b\"q\\\u003cx\u003e\u0026\r\n"),
        (
            b"\xff\xc3(\xe2\x80\xa8 \xe2\x80\xa9 \xef\xbf\xbd ok\xc3\xa9\n",
            b"\\ufffd\\ufffd(\\u2028 \\u2029 \xef\xbf\xbd ok\xc3\xa9\\n",
        ),
        (b"\x01\x1b[0m\x7f\x00\x08\x0c\n", b"\\u0001\\u001b[0m\x7f\\u0000\\u0008\\u000c\\n"),
        (b"last\xe2\x82", rb"last\ufffd\ufffd"),
        (b"what?\xff?\n", rb"what?\ufffd?\n"),
    ],
)
def test_escapes_as_docker_does(tmp_path, raw, log):
    expected = b'{"log":"' + log + b'","stream":"stdout","time":"2025-11-24T16:00:00.1234567Z"}\n'
    assert write(tmp_path / "log", raw) == expected


def test_attrs_stand_between_stream_and_time(tmp_path):
    line = write(tmp_path / "log", b"hi\n", attrs={"x": 'a"<b', "E1": "ee", "tag": "n/1"})
    assert line == (
        b'{"log":"hi\\n","stream":"stdout","attrs":{"E1":"ee","tag":"n/1","x":"a\\"\\u003cb"},'
        b'"time":"2025-11-24T16:00:00.1234567Z"}\n'
    )


# Lengths of Docker's log values for lines of these lengths, recorded.
@pytest.mark.parametrize(
    ("length", "pieces"),
    [(16383, [16384]), (16384, [16384, 1]), (16385, [16384, 2]), (40000, [16384, 16384, 7233])],
)
def test_long_lines_come_in_docker_s_pieces(tmp_path, length, pieces):
    raw = b"d" * length + b"\n"
    for step in (len(raw), 1000, 65536):
        path = tmp_path / f"log{step}"
        data = write(path, *(raw[at : at + step] for at in range(0, len(raw), step)))
        logs = [json.loads(line)["log"] for line in data.splitlines()]
        assert [len(log) for log in logs] == pieces
        assert "".join(logs).encode() == raw


def test_pieces_end_between_characters(tmp_path):
    raw = b"x" + "ü".encode() * 20000 + b"\n"
    logs = [json.loads(line)["log"] for line in write(tmp_path / "log", raw).splitlines()]
    assert "".join(logs).encode() == raw


def test_time_has_no_trailing_zeros():
    assert timestamp(1_000_000_000 * 5) == "1970-01-01T00:00:05Z"
    assert timestamp(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    assert timestamp(1) == "1970-01-01T00:00:00.000000001Z"


@given(st.integers(0, 4_102_444_800_000_000_000))
def test_times_read_back(time_ns):
    assert parse_time(timestamp(time_ns).encode()) == time_ns


def go_escape(data: bytes) -> bytes:
    """Go's ffjsonWriteJSONBytesAsString, step by step."""
    out = bytearray()
    at = 0
    while at < len(data):
        byte = data[at]
        if byte < 0x80:
            if byte in b'\\"':
                out += b"\\" + bytes([byte])
            elif byte == 0x0A:
                out += b"\n"
            elif byte == 0x0D:
                out += b"\\r"
            elif byte < 0x20 or byte in b"<>&":
                out += b"\\u%04x" % byte
            else:
                out.append(byte)
            at += 1
            continue
        for size in (2, 3, 4):
            try:
                char = data[at : at + size].decode()
            except UnicodeDecodeError:
                continue
            if len(char) == 1:
                out += b"\\u%04x" % ord(char) if char in "\u2028\u2029" else char.encode()
                at += size
                break
        else:
            out += b"\\ufffd"
            at += 1
    return bytes(out)


@settings(max_examples=400)
@given(
    st.one_of(st.binary(max_size=60), st.text(max_size=30).map(lambda t: t.encode("utf-8", "surrogatepass")))
)
def test_escape_is_go_s(data):
    assert escape(data) == go_escape(data)


@settings(max_examples=100)
@given(st.data())
def test_any_cut_gives_the_same_entries(tmp_path_factory, data):
    raw = data.draw(
        st.lists(st.sampled_from([b"a", b"\n", "é".encode(), b"<", b"x" * 9000, b"\n\n"]), max_size=30)
    )
    whole = b"".join(raw)
    path = tmp_path_factory.mktemp("log") / "log"
    text = write(path, *raw)
    logs = b"".join(json.loads(line)["log"].encode() for line in text.splitlines())
    assert logs == whole
    assert write(path.with_name("whole"), whole) == text
    assert b"".join(entry.line for entry in JsonFile.reader(str(path)).entries()) == whole


def test_rotation_keeps_the_newest_files_and_loses_no_line(tmp_path):
    path = tmp_path / "log"
    lines = b"".join(b"line %05d\n" % n for n in range(1000))
    write(path, lines[:3000], lines[3000:], options={"max-size": "10k", "max-file": "4"})
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2", "log.3"]
    for name in ("log.1", "log.2", "log.3"):
        size = (tmp_path / name).stat().st_size
        assert 10_000 <= size < 10_000 + 100  # the entry that crosses the limit belongs to the old file
    kept = [entry.line for entry in JsonFile.reader(str(path)).entries()]
    assert kept == lines.splitlines(keepends=True)[-len(kept) :]
    assert len(kept) > 300


def test_one_file_starts_over(tmp_path):
    path = tmp_path / "log"
    write(path, b"line\n" * 1000, options={"max-size": "5k"})
    assert os.listdir(tmp_path) == ["log"]
    assert path.stat().st_size < 5100


def test_rotated_files_are_packed_and_read_back(tmp_path):
    path = tmp_path / "log"
    lines = b"".join(b"line %05d\n" % n for n in range(700))
    write(path, lines, options={"max-size": "20k", "max-file": "5", "compress": "true"})
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1.gz", "log.2.gz"]
    assert b"".join(entry.line for entry in JsonFile.reader(str(path)).entries()) == lines


def test_no_space_loses_entries_whole_and_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "log"
    writer = JsonFile(str(path), {}, {})
    real = os.write
    answers = iter([10, None, -1])

    def scarce(fd, data):
        answer = next(answers, -1)
        if answer is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data if answer < 0 else data[:answer])

    monkeypatch.setattr(rotation.os, "write", scarce)
    writer.write("stdout", memoryview(b"lost\n"), T)
    writer.write("stdout", memoryview(b"kept\n"), T)
    writer.close()
    assert [json.loads(line)["log"] for line in path.read_bytes().splitlines()] == ["kept\n"]
    assert writer.file.lost_bytes > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nope": "1"}, "unknown log opt 'nope' for json-file log driver"),
        ({"max-size": "ten"}, "invalid size: 'ten'"),
        ({"max-size": "0"}, "max-size must be a positive number"),
        ({"max-file": "0"}, "max-file cannot be less than 1"),
        ({"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        (
            {"compress": "true", "max-size": "1k"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
    ],
)
def test_bad_options_are_refused_in_docker_s_words(options, message):
    with pytest.raises(InvalidParameter) as caught:
        JsonFile.validate(options)
    assert str(caught.value) == message


def test_sizes_are_powers_of_a_thousand():
    assert [parse_size(t) for t in ("10", "10k", "10K", "1.5m", "2mb", "1GiB", "3 g")] == [
        10, 10_000, 10_000, 1_500_000, 2_000_000, 1_000_000_000, 3_000_000_000,
    ]  # fmt: skip
