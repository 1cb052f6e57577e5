"""Tasks that begin at once: as tasks, but for when their first part runs."""

from __future__ import annotations

import asyncio

import pytest

from services import eager


async def test_what_never_waits_is_done_when_it_is_started() -> None:
    async def quick() -> str:
        return "done"

    started = eager.start(quick())
    assert started.done()
    assert await started == "done"


async def test_the_first_part_runs_at_once_and_the_rest_when_what_it_waits_for_has_come() -> None:
    seen, gate = [], asyncio.Event()

    async def slow() -> int:
        for step in range(3):
            seen.append(step)
            await gate.wait()
            await asyncio.sleep(0)
        return len(seen)

    started = eager.start(slow())
    assert (seen, started.done()) == ([0], False)
    gate.set()
    assert await started == 3


@pytest.mark.parametrize("waits", [True, False])
async def test_what_it_raises_is_raised_to_who_awaits_it(waits: bool) -> None:
    async def failing() -> None:
        await asyncio.sleep(0) if waits else None
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await eager.start(failing())


async def test_it_can_be_cancelled_and_may_clean_up() -> None:
    seen = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    started = eager.start(endless())
    await asyncio.sleep(0)
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
    assert seen == ["cleaned up"]


async def test_it_can_be_cancelled_before_its_rest_was_reached() -> None:
    started = eager.start(asyncio.Event().wait())
    started.cancel()
    with pytest.raises(asyncio.CancelledError):
        await started
