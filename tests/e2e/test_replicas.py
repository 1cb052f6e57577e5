"""Several replicas of the next tier: requests take turns, and one that leaves, dies or pauses is missed by nobody."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from services.breaker import FAILURES
from services.domain import Tier
from services.errors import (
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidInput,
    ModelMismatch,
    OfframpError,
    QueueFull,
    UpstreamUnavailable,
)
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.retry_budget import BURST, SHARE, RetryBudget
from services.uplink import Uplink
from tests.calls import until
from tests.far_side import FarSide, name_in, request, serving, streams_of


@asynccontextmanager
async def replicas(*far: FarSide, hedge_after_seconds: float | None = None) -> AsyncIterator[Uplink]:
    """An uplink to all of `far`, which serve, and are known to."""
    async with AsyncExitStack() as stack:
        for each in far:
            await stack.enter_async_context(serving(each, streams_of(each).exchange))
        target = ",".join(each.address for each in far)
        uplink = Uplink(Tier.DEVICE, target, hedge_after_seconds=hedge_after_seconds)
        stack.push_async_callback(uplink.close)
        if len(far) > 1:  # one alone is asked whatever it says of itself
            await until(all_serve(uplink))
        yield uplink


def all_serve(uplink: Uplink, count: int | None = None) -> Callable[[], Awaitable[bool]]:
    async def serve() -> bool:
        wanted = len(uplink.replicas) if count is None else count
        return sum(replica.serving for replica in uplink.replicas) == wanted

    return serve


def known_as(uplink: Uplink, names: frozenset[str]) -> Callable[[], Awaitable[bool]]:
    async def known() -> bool:
        return {name for name, _ in uplink.states()} == names

    return known


async def ask(uplink: Uplink, name: str = "r", seconds: float = 5.0) -> str:
    return name_in((await uplink.infer(request(name, seconds=seconds), seconds)).reply)


def asked(far: FarSide) -> int:
    return len(far.streamed) + len(far.alone)


class Refusing(FarSide):
    """Answers with `error`, whichever way it is asked."""

    error: Exception = QueueFull("full")

    async def answer(self, framed: Framed, arrived: float) -> pb.InferReply:
        self.streamed.append(framed.request_id)
        raise self.error

    async def infer(self, framed: Framed, context: object) -> pb.InferReply:
        return await self.answer(framed, 0.0)


class Silent(FarSide):
    """Breaks off without a word."""

    async def infer(self, framed: Framed, context: Any) -> pb.InferReply:
        self.alone.append(framed.request_id)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        raise AssertionError


class Paused(FarSide):
    """Takes requests either way and answers when it is free."""

    async def infer(self, framed: Framed, context: object) -> pb.InferReply:
        return await self.answer(framed, 0.0)


async def test_requests_take_turns() -> None:
    far = [FarSide() for _ in range(3)]
    async with replicas(*far) as uplink:
        names = [f"r{index}" for index in range(30)]
        assert [await ask(uplink, name) for name in names] == names
    assert [asked(each) for each in far] == [10, 10, 10]


async def test_all_replicas_are_asked_whether_they_serve_a_model() -> None:
    both, one = FarSide(models=("old", "new")), FarSide(models=("old",))
    async with replicas(both, one) as uplink:
        await uplink.agree(5.0, "old")
        for _ in range(2):  # whichever of them leads
            with pytest.raises(ModelMismatch, match="holds another"):
                await uplink.agree(5.0, "new")
            uplink.replicas.pass_lead(uplink.replicas.lead())


async def test_a_replica_that_is_not_there_costs_no_request() -> None:
    far = FarSide()
    async with serving(far, streams_of(far).exchange):
        uplink = Uplink(Tier.DEVICE, f"127.0.0.1:1,{far.address}")
        try:
            assert [await ask(uplink, f"r{index}") for index in range(20)] == [f"r{index}" for index in range(20)]
            await until(all_serve(uplink, 1))
            assert dict(uplink.states())["127.0.0.1:1"] in (1, 2)
        finally:
            await uplink.close()


async def test_requests_in_flight_at_a_replica_that_dies_are_answered_once_by_another() -> None:
    dies, lives = Paused(), FarSide()
    async with AsyncExitStack() as stack:
        dying = AsyncExitStack()
        await dying.enter_async_context(serving(dies, streams_of(dies).exchange))
        await stack.enter_async_context(serving(lives, streams_of(lives).exchange))
        uplink = Uplink(Tier.DEVICE, f"{dies.address},{lives.address}")
        stack.push_async_callback(uplink.close)
        await until(all_serve(uplink))
        await asyncio.gather(*(ask(uplink) for _ in range(4)))
        dies.free.clear()
        names = [f"r{index}" for index in range(40)]
        asking = asyncio.gather(*(ask(uplink, name) for name in names))
        await until(lambda: _true(len({*dies.streamed} & {*names}) == 20))
        await dying.aclose()
        assert await asking == names
    answered = [name for name in (*lives.streamed, *lives.alone) if name in names]
    assert sorted(answered) == sorted(names)
    assert uplink.retries["answered"] == 20


async def _true(condition: bool) -> bool:
    return condition


async def test_a_replica_that_stays_silent_soon_costs_nobody_his_time_and_is_used_again_when_it_is_back() -> None:
    far = Paused()
    async with replicas(far) as uplink:
        await ask(uplink)
        far.free.clear()
        for _ in range(FAILURES):
            with pytest.raises(DeadlineExceeded):
                await ask(uplink, seconds=0.25)
        started = time.monotonic()
        with pytest.raises(UpstreamUnavailable):
            await ask(uplink, seconds=0.25)
        assert time.monotonic() - started < 0.2
        assert uplink.states() == [(far.address, 2)]
        far.free.set()

        async def back() -> bool:
            try:
                return await ask(uplink) == "r"
            except UpstreamUnavailable:
                return False

        await until(back, seconds=5.0)
        assert uplink.states() == [(far.address, 0)]


async def test_a_deadline_too_near_is_not_held_against_a_replica() -> None:
    far = Paused()
    async with replicas(far) as uplink:
        await ask(uplink)
        far.free.clear()
        for _ in range(2 * FAILURES):
            with pytest.raises(DeadlineExceeded):
                await ask(uplink, seconds=0.02)
        assert uplink.states() == [(far.address, 0)]


@pytest.mark.parametrize("error", [InvalidInput("no"), QueueFull("full"), InternalError("oh")])
async def test_what_a_replica_says_never_has_it_left_alone(error: OfframpError) -> None:
    far = Refusing()
    far.error = error
    async with replicas(far) as uplink:
        for _ in range(2 * FAILURES):
            with pytest.raises(type(error)):
                await ask(uplink)
        assert uplink.states() == [(far.address, 0)]


async def test_a_callers_error_is_not_asked_again() -> None:
    far = [Refusing(), Refusing()]
    for each in far:
        each.error = InvalidInput("no")
    async with replicas(*far) as uplink:
        with pytest.raises(InvalidInput):
            await ask(uplink)
    assert sum(map(asked, far)) == 1


async def test_a_busy_replica_is_left_for_another_within_the_budget() -> None:
    full, free = Refusing(), FarSide()
    async with replicas(full, free) as uplink:
        ended = Counter[str]()
        for _ in range(200):
            try:
                ended[await ask(uplink)] += 1
            except QueueFull:
                ended["full"] += 1
        assert asked(full) == 100
        assert uplink.retries["answered"] <= SHARE * 200 + BURST
        assert uplink.retries["answered"] + uplink.retries["over_budget"] == 100
        assert ended == {"r": 100 + uplink.retries["answered"], "full": uplink.retries["over_budget"]}


async def test_a_replica_that_leaves_costs_no_budget() -> None:
    leaves, stays = Refusing(), FarSide()
    leaves.error = Draining("leaving")
    async with replicas(leaves, stays) as uplink:
        assert {await ask(uplink) for _ in range(200)} == {"r"}
        assert uplink.retries["over_budget"] == 0


async def test_a_request_that_every_replica_falls_silent_at_moves_on_freely_only_once() -> None:
    """It may be what breaks them."""
    far = [Silent() for _ in range(3)]
    async with AsyncExitStack() as stack:
        for each in far:
            await stack.enter_async_context(serving(each, None))
        uplink = Uplink(Tier.DEVICE, ",".join(each.address for each in far), transport="unary")
        stack.push_async_callback(uplink.close)
        uplink._budget = RetryBudget(share=0.0, burst=0.0, _in_hand=0.0)
        with pytest.raises(UpstreamUnavailable):
            await ask(uplink)
        assert (sum(map(asked, far)), uplink.retries["over_budget"]) == (2, 1)


async def test_no_time_left_is_no_time_for_another() -> None:
    busy, free = Refusing(), FarSide()
    async with replicas(busy, free) as uplink:
        ended = Counter[str]()
        for _ in range(10):
            try:
                await uplink.infer(request(), 1.0, expected_seconds=1.5)
            except QueueFull:
                ended["full"] += 1
        assert ended["full"] == 5


async def test_a_hedge_answers_for_a_slow_replica_whose_request_is_stopped() -> None:
    slow, fast = Paused(), FarSide()
    async with replicas(slow, fast, hedge_after_seconds=0.05) as uplink:
        await asyncio.gather(*(ask(uplink) for _ in range(4)))
        before = uplink.retries["answered"]
        slow.free.clear()
        names = [f"r{index}" for index in range(6)]
        assert [await ask(uplink, name) for name in names] == names
        await until(lambda: _true(len(slow.cancelled) == 3))
        assert uplink.retries["answered"] - before == 3


async def test_a_replica_that_had_to_be_hedged_and_is_not_healthy_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead, alive = Paused(), FarSide()
    async with replicas(dead, alive, hedge_after_seconds=0.05) as uplink:
        await asyncio.gather(*(ask(uplink) for _ in range(4)))
        dead.free.clear()
        replica = next(each for each in uplink.replicas if each.name == dead.address)

        async def serves(seconds: float) -> bool:
            return False

        monkeypatch.setattr(replica.connection, "serves", serves)
        assert {await ask(uplink) for _ in range(2)} == {"r"}
        await until(lambda: _true(not replica.usable))
        before = asked(dead)
        assert {await ask(uplink) for _ in range(6)} == {"r"}
        assert asked(dead) == before


async def test_a_hedge_that_was_not_needed_is_stopped() -> None:
    far = [Paused(), Paused()]
    async with replicas(*far, hedge_after_seconds=0.05) as uplink:
        await asyncio.gather(*(ask(uplink) for _ in range(4)))
        before = uplink.retries["answered"] + uplink.retries["unneeded"]
        for each in far:
            each.free.clear()
        asking = asyncio.create_task(ask(uplink, "late"))
        await until(lambda: _true(all("late" in (*each.streamed, *each.alone) for each in far)))
        far[0].free.set()
        assert await asking == "late"
        await until(lambda: _true(far[1].cancelled == ["late"]))
        assert uplink.retries["answered"] + uplink.retries["unneeded"] - before == 1
