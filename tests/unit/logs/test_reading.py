"""Reading logs back while they are written, rotated and cut."""

from __future__ import annotations

import os

import pytest

from wherry.logs.json_file import JsonFile
from wherry.logs.json_records import parse

S = 1_000_000_000


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "log")


def writer_of(path, **options):
    return JsonFile(path, {name.replace("_", "-"): value for name, value in options.items()}, {})


def put(writer, *lines, at=S):
    for line in lines:
        writer.write("stdout", memoryview(line), at)


def lines_of(reader):
    return [entry.line for entry in reader.entries()]


def numbered(first, last):
    return [b"n%d\n" % n for n in range(first, last)]


def test_tail_counts_entries_from_the_end(path):
    put(writer_of(path), *numbered(0, 5))
    for count in range(8):
        assert lines_of(JsonFile.reader(path, tail=count)) == numbered(max(0, 5 - count), 5)


def test_tail_reaches_into_rotated_files(path):
    put(writer_of(path, max_size="1k", max_file="5"), *numbered(0, 60))
    assert os.path.exists(f"{path}.3")
    for count in (1, 7, 14, 15, 16, 30, 45):
        assert lines_of(JsonFile.reader(path, tail=count)) == numbered(60 - count, 60)


def test_tail_of_a_large_file_is_exact(path):
    put(writer_of(path, max_size="-1"), b"".join(numbered(0, 30000)))
    assert lines_of(JsonFile.reader(path, tail=20000)) == numbered(10000, 30000)


def test_since_and_until_include_their_ends(path):
    writer = writer_of(path)
    for n in range(6):
        put(writer, b"n%d\n" % n, at=n * S)
    reader = JsonFile.reader(path, since_ns=2 * S, until_ns=4 * S)
    assert lines_of(reader) == numbered(2, 5)
    assert reader.done


@pytest.mark.parametrize("since", [0, 1, 2, 1000, 15000, 29998, 29999, 30000])
def test_since_is_found_in_large_files(path, since):
    writer = writer_of(path, max_size="1500k", max_file="9")
    for n in range(30000):
        put(writer, b"n%d\n" % n, at=n * S)
    assert os.path.exists(f"{path}.1")
    assert lines_of(JsonFile.reader(path, since_ns=since * S)) == numbered(since, 30000)


def test_following_gives_each_entry_once(path):
    writer = writer_of(path)
    put(writer, *numbered(0, 3))
    reader = JsonFile.reader(path, tail=1)
    assert lines_of(reader) == numbered(2, 3)
    assert lines_of(reader) == []
    put(writer, *numbered(3, 5))
    assert lines_of(reader) == numbered(3, 5)


def test_following_from_now_on(path):
    writer = writer_of(path)
    put(writer, *numbered(0, 3))
    reader = JsonFile.reader(path, tail=0)
    assert lines_of(reader) == []
    put(writer, *numbered(3, 5))
    assert lines_of(reader) == numbered(3, 5)


def test_following_begins_before_the_file_exists(path):
    reader = JsonFile.reader(path)
    assert lines_of(reader) == []
    put(writer_of(path), *numbered(0, 2))
    assert lines_of(reader) == numbered(0, 2)


def test_following_crosses_several_rotations(path):
    writer = writer_of(path, max_size="1k", max_file="9")
    reader = JsonFile.reader(path)
    seen = []
    for start in range(0, 120, 40):
        put(writer, *numbered(start, start + 40))
        seen += lines_of(reader)
    assert seen == numbered(0, 120)


def test_following_survives_the_loss_of_its_file(path):
    writer = writer_of(path, max_size="1k")
    reader = JsonFile.reader(path)
    seen = []
    for n in range(60):
        put(writer, b"n%d\n" % n)
        seen += lines_of(reader)
    assert seen == numbered(0, 60)


def test_a_torn_last_line_is_not_there_yet(path):
    put(writer_of(path), *numbered(0, 2))
    with open(path, "rb") as file:
        whole = file.read()
    for cut in range(len(whole)):
        with open(path, "wb") as file:
            file.write(whole[:cut])
        for tail in (-1, 0, 1, 5):
            reader = JsonFile.reader(path, tail=tail)
            first = lines_of(reader)
            with open(path, "ab") as file:
                file.write(whole[cut:])
            complete = numbered(0, whole[:cut].count(b"\n"))
            kept = (
                complete
                if tail < 0
                else complete[len(complete) - tail :]
                if tail < len(complete)
                else complete
            )
            kept = [] if tail == 0 else kept
            assert first == kept
            assert lines_of(reader) == numbered(whole[:cut].count(b"\n"), 2)
            with open(path, "wb") as file:
                file.write(whole[:cut])


def test_truncation_by_hand_starts_over(path):
    writer = writer_of(path)
    put(writer, *numbered(0, 9))
    reader = JsonFile.reader(path)
    assert lines_of(reader) == numbered(0, 9)
    os.truncate(path, 0)
    put(writer, *numbered(9, 10))
    assert lines_of(reader) == numbered(9, 10)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"nonsense", b"[1]",
     b'{"log":5,"stream":"stdout","time":"2026-01-01T00:00:00Z"}', b"\0" * 50,
     b'{"log":"x","stream":"stdout","time":"yesterday"}', b"[" * 100000],
)  # fmt: skip
def test_what_is_no_entry_is_passed_over(line):
    assert parse(line) is None


def test_other_people_s_spelling_is_read():
    entry = parse(
        b'{"time":"2026-11-24T22:16:10.5Z","stream":"stderr","log":"a\\u0009b\\n","attrs":{"k":"v"}}'
    )
    assert entry is not None
    assert (entry.stream, entry.line, entry.attrs) == ("stderr", b"a\tb\n", {"k": "v"})
    assert entry.time_ns % S == S // 2
