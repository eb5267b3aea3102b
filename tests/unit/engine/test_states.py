from __future__ import annotations

import itertools
from pathlib import Path
from typing import get_args

import pytest

from wherry.engine.records import ContainerState
from wherry.engine.states import STEPS, Status, drawing
from wherry.errors import Internal

ALL: tuple[Status, ...] = get_args(Status)
PAGE = Path(__file__).parents[3] / "docs" / "containers.md"


def test_only_steps_of_the_table_can_be_taken() -> None:
    for before, after in itertools.product(ALL, ALL):
        state = ContainerState(status=before)
        if (before, after) in STEPS:
            state.become(after)
            assert state.status == after
        else:
            with pytest.raises(Internal):
                state.become(after)


def test_what_counts_as_running() -> None:
    active = {status for status in ALL if ContainerState(status=status).is_active}
    running = {status for status in ALL if ContainerState(status=status).is_running}
    assert active - running == {"restarting"} and running == {"running", "paused"}


def test_the_page_draws_this_table() -> None:
    assert f"```mermaid\n{drawing()}\n```\n" in PAGE.read_text()
