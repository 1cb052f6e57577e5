"""What waits for a stream: gathered, bounded, and small things do not wait for large ones."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.outbox import GATHERED_BYTES, GATHERED_ITEMS, Outbox

KIB = 1 << 10


def outbox(most_items: int = 10_000, most_bytes: int = 1 << 30) -> Outbox[str]:
    return Outbox(most_items, most_bytes)


async def test_whatever_waits_goes_into_one_message() -> None:
    box = outbox()
    for name in "abc":
        box.put(name, KIB)
    assert box.take() == ["a", "b", "c"]
    assert len(box) == 0


async def test_a_message_of_several_is_no_larger_than_a_quarter_mebibyte_and_a_larger_item_goes_alone() -> None:
    box = outbox()
    for index in range(5):
        box.put(f"{index}", 100 * KIB)
    box.put("large", 600 * KIB)
    assert [box.take() for _ in range(4)] == [["0", "1"], ["2", "3"], ["4"], ["large"]]


async def test_small_ones_overtake_a_large_one_which_lets_no_more_bytes_pass_than_it_has() -> None:
    box = outbox()
    box.put("large", 1000 * KIB)
    passed = 0
    while "large" not in (taken := box.take() if passed else []):
        passed += len(taken)
        for _ in range(8):
            box.put("small", 16 * KIB)
        passed += not passed
    assert 900 <= 16 * passed <= 1000 + 8 * 16 + GATHERED_BYTES // KIB


@given(st.lists(st.integers(0, 600 * KIB), max_size=60))
def test_everything_is_taken_once_and_every_message_keeps_to_the_bounds(sizes: list[int]) -> None:
    box = outbox()
    for index, size in enumerate(sizes):
        box.put(f"{index}", size)
    messages = [box.take() for _ in iter(lambda: len(box), 0)]
    assert sorted(int(name) for message in messages for name in message) == list(range(len(sizes)))
    for message in messages:
        assert len(message) == 1 or sum(sizes[int(name)] for name in message) <= GATHERED_BYTES
        assert len(message) <= GATHERED_ITEMS


@pytest.mark.parametrize("bounds", [{"most_items": 2}, {"most_bytes": 2 * KIB}])
async def test_a_full_box_has_room_again_when_something_was_taken(bounds: dict[str, int]) -> None:
    box = outbox(**bounds)
    box.put("a", KIB)
    await box.room()
    box.put("b", KIB)
    assert box.full
    waiting = asyncio.create_task(box.room())
    await asyncio.wait([waiting], timeout=0)
    assert not waiting.done()
    box.take()
    await asyncio.wait_for(waiting, 1)
