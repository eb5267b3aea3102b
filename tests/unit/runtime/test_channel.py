"""Messages between the maker and the first process, when one of them is gone."""

from __future__ import annotations

from wherry.runtime import channel
from wherry.runtime.errors import INTERNAL, StartFailed


def test_what_the_other_side_said_last_is_read_though_it_left_something_unread() -> None:
    ours, theirs = channel.pair()
    channel.send(ours, {"at": "cgroup"})  # never read
    channel.send_failure(theirs, StartFailed(INTERNAL, "bad value"))
    theirs.close()
    channel.send(ours, {"at": "trees"})  # nobody is there: no error of its own
    assert channel.receive(ours) == ({"error": {"kind": INTERNAL, "message": "bad value"}}, [])
    assert channel.receive(ours) == (None, [])
    ours.close()


def test_the_end_of_file_is_told_when_nothing_was_said() -> None:
    ours, theirs = channel.pair()
    channel.send(ours, {"at": "cgroup"})
    theirs.close()
    assert channel.receive(ours) == (None, [])
    ours.close()
