from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.engine.image_fixtures import Bench


@pytest.fixture
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    bench = await Bench.open(str(tmp_path_factory.mktemp("store")))
    yield bench
    await bench.close()
