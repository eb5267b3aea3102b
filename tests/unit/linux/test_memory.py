from __future__ import annotations

from wherry.linux import memory


def resident_kb() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def test_trim_gives_freed_memory_back() -> None:
    memory.keep_few_arenas()
    pieces = [bytes(100_000) for _ in range(1000)]
    last = bytes(1000)  # keeps the top of the heap from shrinking by itself
    del pieces
    before = resident_kb()
    memory.trim()
    assert resident_kb() <= before
    assert len(last) == 1000
