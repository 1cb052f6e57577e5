"""One timer ends the waiting of every message whose time is up, and of no other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.arrivals import Arrivals


async def started(*waiting: Any) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(each) for each in waiting]
    await asyncio.sleep(0)
    return tasks


async def test_what_arrives_in_time_is_handed_on_and_leaves_nothing_behind() -> None:
    arrivals, message = Arrivals(60), asyncio.get_running_loop().create_future()
    (task,) = await started(arrivals.wait(message))
    message.set_result("here")
    assert await task == "here"
    assert not arrivals._due


async def test_each_that_takes_too_long_is_late_and_those_after_it_are_in_their_turn() -> None:
    arrivals, loop = Arrivals(0.02), asyncio.get_running_loop()
    tasks = await started(*(arrivals.wait(loop.create_future()) for _ in range(3)))
    later = await started(arrivals.wait(loop.create_future()))
    for outcome in await asyncio.gather(*tasks, *later, return_exceptions=True):
        assert isinstance(outcome, TimeoutError)
    assert not arrivals._due


async def test_one_that_came_late_does_not_take_the_next_with_it() -> None:
    arrivals, loop = Arrivals(0.02), asyncio.get_running_loop()
    (late,) = await started(arrivals.wait(loop.create_future()))
    with pytest.raises(TimeoutError):
        await late
    message = loop.create_future()
    (task,) = await started(arrivals.wait(message))
    message.set_result("here")
    assert await task == "here"


async def test_a_caller_that_leaves_is_cancelled_and_not_late() -> None:
    arrivals = Arrivals(60)
    (task,) = await started(arrivals.wait(asyncio.get_running_loop().create_future()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not arrivals._due


async def test_who_leaves_in_the_moment_its_time_is_up_has_left() -> None:
    arrivals = Arrivals(0.0)
    (task,) = await started(arrivals.wait(asyncio.get_running_loop().create_future()))
    arrivals._look()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_whose_message_was_late_can_wait_for_something_else_after() -> None:
    arrivals, loop = Arrivals(0.0), asyncio.get_running_loop()

    async def twice() -> str:
        with pytest.raises(TimeoutError):
            await arrivals.wait(loop.create_future())
        await asyncio.sleep(0)
        return "went on"

    assert await asyncio.wait_for(asyncio.create_task(twice()), 5) == "went on"
