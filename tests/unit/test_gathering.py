"""What travels as one, to the tier above, and what comes back to each."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from services.domain import (
    DegradedReason,
    Passing,
    Payload,
    Plan,
    Request,
    Segment,
    Stage,
    Tier,
)
from services.errors import DeadlineExceeded, InvalidInput, QueueFull, TooLarge, UpstreamUnavailable
from services.gathering import MOST_TOGETHER, Crowding, Gathering
from tests.fakes import FakeClock
from tests.gatherings import BEYOND, ELSEWHERE, HERE, Far, asked, asking, crowded


async def test_requests_of_one_turn_travel_as_one_and_each_gets_its_own_part() -> None:
    gathering = await crowded(far := Far())
    found = await asked(gathering, [asking(number) for number in range(1, 6)])
    assert far.sizes == [5]
    assert far.members == [("r1", "r2", "r3", "r4", "r5")]
    assert [each.response.predictions.scores[:, 0].tolist() for each in found] == [[1], [2], [3], [4], [5]]
    assert {(each.bytes_up, each.bytes_down) for each in found} == {(64, 32)}


async def test_a_plan_of_which_something_else_is_expected_now_is_still_the_same() -> None:
    gathering = await crowded(far := Far())
    newer = [replace(HERE, expected_seconds=0.01 * number) for number in range(1, 5)]
    await asked(gathering, [asking(number, plan) for number, plan in enumerate(newer)])
    assert far.sizes == [4]


async def test_one_caller_after_the_other_is_not_gathered() -> None:
    gathering = await crowded(far := Far())
    for number in range(4):
        await gathering.infer(asking(number), "fp32")
    assert far.members[1:] == [()] * 3


async def test_samples_of_a_request_stay_together() -> None:
    gathering = await crowded(far := Far())
    found = await asked(gathering, [asking(number, count=3) for number in (7, 8)])
    assert far.sizes == [6]
    assert [each.response.predictions.scores[:, 0].tolist() for each in found] == [[7] * 3, [8] * 3]


async def test_many_travel_in_two_halves_so_that_one_is_run_while_the_other_is_dealt_with() -> None:
    gathering = await crowded(far := Far())
    await asked(gathering, [asking(number) for number in range(30)])
    assert far.sizes == [15, 15]


async def test_a_group_is_bounded() -> None:
    gathering = await crowded(far := Far())
    await asked(gathering, [asking(number) for number in range(3 * MOST_TOGETHER)])
    assert max(far.sizes) <= MOST_TOGETHER
    assert sum(far.sizes) == 3 * MOST_TOGETHER


@pytest.mark.parametrize(
    "odd",
    [
        asking(9, seconds=0.05),
        replace(asking(9), traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"),
        replace(asking(9), thresholds=(0.5,)),
        replace(asking(9), at=1),
        replace(asking(9), passing=Passing(Payload((1, 3), "fp32", b""), lambda payload: np.zeros((1, 3), np.float32))),
        asking(9, ELSEWHERE),
        asking(9, count=2),
    ],
    ids=["hurried", "traced", "surer", "further", "passing", "otherwise planned", "larger"],
)
async def test_who_wants_something_else_travels_apart(odd: Request) -> None:
    gathering = await crowded(far := Far())
    await asked(gathering, [asking(1), odd, asking(2)])
    assert ("r1", "r2") in far.members
    assert len(far.members) == 2


async def test_who_is_encoded_otherwise_travels_apart() -> None:
    gathering = await crowded(far := Far())
    names = ("fp32", "int8", "fp32")
    await asyncio.gather(*(gathering.infer(asking(number), name) for number, name in enumerate(names)))
    assert ("r0", "r2") in far.members


async def test_who_is_answered_late_makes_the_next_wait() -> None:
    gathering = await crowded(Far())
    gathering._crowding.seconds, before = 60.0, gathering._crowding
    await gathering.infer(asking(1), "fp32")
    assert before.seconds < 0.01


async def test_who_has_much_more_time_does_not_share_a_deadline() -> None:
    gathering = await crowded(far := Far())
    await asked(gathering, [asking(1, seconds=1.0), asking(2, seconds=30.0), asking(3, seconds=1.1)])
    assert ("r1", "r3") in far.members


async def test_what_goes_on_to_another_tier_or_runs_for_long_is_not_gathered() -> None:
    for far, plan in ((Far(), BEYOND), (Far(seconds=0.005), HERE)):
        gathering = Gathering(far.send)
        for _ in range(4):
            await asked(gathering, [asking(number, plan) for number in range(4)])
        assert set(far.sizes) == {1}


async def test_a_group_has_the_nearest_deadline_of_its_members() -> None:
    gathering = await crowded(far := Far())
    requests = [asking(1, seconds=9), asking(2, seconds=8), asking(3, seconds=10)]
    await asked(gathering, requests)
    assert far.deadlines == [requests[1].deadline]


@pytest.mark.parametrize(
    "error", [InvalidInput("no"), DeadlineExceeded("late"), QueueFull("no place for so many"), ValueError("a fault")]
)
async def test_where_a_group_fails_each_asks_again_alone(error: Exception) -> None:
    gathering = await crowded(far := Far(fails=[]))
    far.fails.append(error)
    found = await asked(gathering, [asking(1), asking(2)])
    assert far.sizes == [2, 1, 1]
    assert [each.response.predictions.scores[0, 0] for each in found] == [1, 2]


async def test_where_a_group_is_cut_short_each_asks_again_alone() -> None:
    gathering = await crowded(far := Far())
    far.degraded = int(DegradedReason.DEADLINE)
    found = await asked(gathering, [asking(1), asking(2)])
    assert far.sizes == [2, 1, 1]
    assert not any(each.response.predictions.reasons.any() for each in found)


async def test_a_tier_that_is_gone_is_not_asked_again_by_each() -> None:
    gathering = await crowded(far := Far())
    far.fails.append(UpstreamUnavailable("gone"))
    ended = await asyncio.gather(*(gathering.infer(asking(n), "fp32") for n in (1, 2)), return_exceptions=True)
    assert [type(error) for error in ended] == [UpstreamUnavailable, UpstreamUnavailable]
    assert ended[0] is not ended[1]
    assert far.sizes == [2]


async def test_a_group_has_no_more_samples_than_the_model_takes() -> None:
    for most, expected in ((1, {1}), (4, {4, 1})):
        gathering = Gathering((far := Far()).send, most_samples=most)
        for _ in range(3):
            far.sizes.clear()
            await asked(gathering, [asking(number) for number in range(9)])
        assert set(far.sizes) == expected


@pytest.mark.parametrize(("error", "seconds"), [(TooLarge("too many"), 601), (QueueFull("too many"), 11)])
async def test_a_tier_with_fewer_places_is_sent_fewer_for_some_time(error: Exception, seconds: float) -> None:
    clock = FakeClock(1.0)
    gathering = await crowded(far := Far(), clock)
    far.fails.append(error)
    for _ in range(2):
        await asked(gathering, [asking(number) for number in range(8)])
    far.sizes.clear()
    await asked(gathering, [asking(number) for number in range(8)])
    assert max(far.sizes) == 4
    clock.now += seconds
    far.sizes.clear()
    await asked(gathering, [asking(number) for number in range(8)])
    assert max(far.sizes) == 8


async def test_large_requests_are_joined_to_no_more_samples_or_bytes_than_small_ones() -> None:
    gathering = await crowded(far := Far())
    await asked(gathering, [asking(number, count=16) for number in range(20)])
    assert max(far.sizes) * far.seconds <= 0.002
    wide = [replace(asking(number), activation=np.zeros((1, 20_000), np.float32)) for number in range(20)]
    far.sizes.clear()
    await asked(gathering, wide)
    assert max(far.sizes) * 80_000 <= 1 << 18


@pytest.mark.parametrize("seconds", [0.0, 1e-320])
async def test_times_that_cannot_be_do_no_harm(seconds: float) -> None:
    gathering = await crowded(far := Far(seconds=seconds))
    await asked(gathering, [asking(number) for number in range(4)])
    assert sum(far.sizes) == 4


async def test_a_plan_whose_last_stage_is_empty_ends_before_it() -> None:
    plan = Plan((*HERE.stages, Stage(Tier.CLOUD, Segment(4, 4))))
    far = Far()
    gathering = Gathering(far.send)
    for _ in range(3):
        await asked(gathering, [asking(number, plan) for number in range(4)])
    assert 4 in far.sizes


async def test_who_leaves_a_group_changes_nothing_for_the_others() -> None:
    gathering = await crowded(far := Far())
    far.may.clear()
    tasks = [asyncio.create_task(gathering.infer(asking(number), "fp32")) for number in range(3)]
    while not far.sizes:
        await asyncio.sleep(0)
    tasks[1].cancel()
    far.may.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[1], asyncio.CancelledError)
    assert [each.response.predictions.scores[0, 0] for each in (found[0], found[2])] == [0, 2]  # type: ignore[union-attr]


async def test_a_group_that_everybody_has_left_is_called_off() -> None:
    gathering = await crowded(far := Far())
    far.may.clear()
    tasks = [asyncio.create_task(gathering.infer(asking(number), "fp32")) for number in range(3)]
    while not far.sizes:
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)
    assert far.cancelled == 1


async def test_who_comes_while_others_are_under_way_waits_no_longer_than_for_the_next_answer() -> None:
    gathering = await crowded(far := Far())
    far.may.clear()
    gathering._crowding.seconds = 60.0
    before = [asyncio.create_task(gathering.infer(asking(number), "fp32")) for number in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    more = [asyncio.create_task(gathering.infer(asking(number, BEYOND), "fp32")) for number in range(2)]
    await asyncio.sleep(0)
    later = asyncio.create_task(gathering.infer(asking(5), "fp32"))
    await asyncio.sleep(0)
    departed = len(far.sizes)
    far.may.set()
    await asyncio.wait_for(asyncio.gather(*before, *more, later), 5)
    assert departed == 3
    assert len(far.sizes) == 4


async def test_a_few_wait_for_the_many_under_way_and_then_all_go_together() -> None:
    gathering = await crowded(far := Far())
    far.may.clear()
    gathering._crowding.seconds = 60.0

    async def twice(number: int) -> None:
        for _ in range(2):
            await gathering.infer(asking(number), "fp32")

    many = [asyncio.create_task(twice(number)) for number in range(6)]
    for _ in range(3):
        await asyncio.sleep(0)
    few = [asyncio.create_task(gathering.infer(asking(number), "fp32")) for number in (7, 8)]
    for _ in range(3):
        await asyncio.sleep(0)
    far.may.set()
    await asyncio.wait_for(asyncio.gather(*many, *few), 5)
    assert far.sizes == [6, 8]


async def test_as_many_as_half_of_those_under_way_wait_for_nobody() -> None:
    gathering = await crowded(far := Far())
    far.may.clear()
    gathering._crowding.seconds = 60.0
    tasks = []
    for count in (6, 3):
        tasks += [asyncio.create_task(gathering.infer(asking(number), "fp32")) for number in range(count)]
        for _ in range(3):
            await asyncio.sleep(0)
    assert far.sizes == [6, 3]
    far.may.set()
    await asyncio.gather(*tasks)


def test_who_is_answered_later_than_usual_is_held_for_half_of_that() -> None:
    crowding = Crowding()
    crowding.note(0.0010)
    assert crowding.seconds == 0
    crowding.note(0.0020)
    assert crowding.seconds == pytest.approx(0.0005, rel=0.05)
    crowding.note(1.0)
    assert crowding.seconds == 0.002
