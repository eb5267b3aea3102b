"""What every log driver promises the shim and the daemon, run against each that is registered."""

from __future__ import annotations

import importlib
import inspect

import pytest

from wherry.errors import InvalidParameter, Unsupported
from wherry.logs.driver import Entry
from wherry.logs.none import NoLog

DRIVERS = {
    "json-file": "wherry.logs.json_file:JsonFile",
    "local": "wherry.logs.local:Local",
    "none": "wherry.logs.none:NoLog",
}
S = 1_000_000_000


@pytest.fixture(params=DRIVERS.values(), ids=DRIVERS)
def driver(request):
    module, _, name = request.param.partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.fixture
def readable(driver):
    if not driver.readable:
        pytest.skip("keeps nothing")
    return driver


def write(driver, path, *writes):
    writer = driver(str(path), {}, {})
    for stream, data, at in writes:
        writer.write(stream, memoryview(data), at)
    writer.close()


def test_no_options_are_valid_and_unknown_ones_are_not(driver):
    driver.validate({})
    if driver is not NoLog:  # as Docker's none, which takes what it is given
        with pytest.raises(InvalidParameter, match="unknown log opt 'no-such-option' for .*log driver"):
            driver.validate({"no-such-option": "1"})


def test_bytes_of_any_kind_are_taken_and_not_kept_by_reference(driver, tmp_path):
    writer = driver(str(tmp_path / "log"), {}, {})
    buffer = bytearray(b'\x00\xff<&>"\\ \xe2\x80\xa8 no end')
    writer.write("stdout", memoryview(buffer), S)
    buffer[:] = b"?" * len(buffer)
    writer.write("stderr", memoryview(b""), S)
    writer.write("stdout", memoryview(b"\n"), S)
    assert isinstance(writer.fileno(), int)
    writer.close()
    if driver.readable:
        (entry,) = driver.reader(str(tmp_path / "log")).entries()
        assert b"?" not in entry.line


def test_a_place_that_cannot_be_written_does_not_stop_the_container(driver, tmp_path):
    writer = driver(str(tmp_path / "missing" / "log"), {}, {})
    writer.write("stdout", memoryview(b"line\n"), S)
    writer.close()


def test_closing_twice_does_no_harm(driver, tmp_path):
    writer = driver(str(tmp_path / "log"), {}, {})
    writer.write("stdout", memoryview(b"half a line"), S)
    writer.close()
    writer.close()


def test_what_keeps_nothing_says_so(driver, tmp_path):
    if driver.readable:
        pytest.skip("can be read")
    with pytest.raises(Unsupported, match="does not support reading"):
        driver.reader(str(tmp_path / "log"))


def test_entries_come_back_in_order_with_stream_and_time(readable, tmp_path):
    path = tmp_path / "log"
    write(
        readable,
        path,
        ("stdout", b"one\ntw", S),
        ("stderr", b"err\n", 2 * S),
        ("stdout", b"o\nthree", 3 * S + 7),
    )
    assert list(readable.reader(str(path)).entries()) == [
        Entry(S, "stdout", b"one\n", None),
        Entry(2 * S, "stderr", b"err\n", None),
        Entry(3 * S + 7, "stdout", b"two\n", None),
        Entry(3 * S + 7, "stdout", b"three", None),
    ]


def test_tail_comes_before_since_as_in_docker(readable, tmp_path):
    path = tmp_path / "log"
    write(readable, path, *(("stdout", b"%d\n" % n, n * S) for n in range(1, 10)))
    reader = readable.reader(str(path), tail=3, since_ns=8 * S)
    assert [entry.line for entry in reader.entries()] == [b"8\n", b"9\n"]


def test_a_reader_goes_on_where_it_stopped(readable, tmp_path):
    path = tmp_path / "log"
    writer = readable(str(path), {}, {})
    reader = readable.reader(str(path))
    assert list(reader.entries()) == []
    for n in range(3):
        writer.write("stdout", memoryview(b"%d\n" % n), S)
        assert [entry.line for entry in reader.entries()] == [b"%d\n" % n]
    reader.close()
    writer.close()


def test_reading_a_log_that_never_was_gives_nothing(readable, tmp_path):
    assert list(readable.reader(str(tmp_path / "log"), tail=5).entries()) == []


def test_it_is_made_as_the_protocol_says(driver):
    assert list(inspect.signature(driver).parameters) == ["path", "options", "attrs"]
    assert list(inspect.signature(driver.reader).parameters) == ["path", "since_ns", "until_ns", "tail"]
