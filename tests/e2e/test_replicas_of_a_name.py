"""Replicas that a name stands for, which come and go."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import pytest

from services import targets
from services.domain import Tier
from services.errors import UpstreamUnavailable
from services.uplink import Uplink
from tests.calls import until
from tests.e2e.test_replicas import Paused, _true, all_serve, ask, asked, known_as, replicas
from tests.far_side import FarSide, name_in, request, serving, streams_of


async def test_a_name_is_all_of_its_addresses_and_follows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    far = [FarSide() for _ in range(3)]
    stands_for: set[str] = set()

    async def addresses(name: targets.Name) -> frozenset[str]:
        assert name == targets.Name("edge", 8001)
        return frozenset(stands_for)

    monkeypatch.setattr(targets, "addresses", addresses)
    monkeypatch.setattr(targets, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(targets, "LOOK_SECONDS", 0.05)
    async with AsyncExitStack() as stack:
        for each in far:
            await stack.enter_async_context(serving(each, streams_of(each).exchange))
        uplink = Uplink(Tier.DEVICE, "dns:///edge:8001")
        stack.push_async_callback(uplink.close)
        with pytest.raises(UpstreamUnavailable, match="no address"):
            await ask(uplink)
        for held in (far[:2], far[1:]):
            stands_for.clear()
            stands_for |= {each.address for each in held}
            await until(known_as(uplink, frozenset(stands_for)))
            await until(all_serve(uplink))
            assert uplink.replicas.lead() in list(uplink.replicas)
            uplink.replicas._lead = next(each for each in uplink.replicas if each.name == held[0].address)
            before = [asked(each) for each in far]
            assert {await ask(uplink) for _ in range(10)} == {"r"}
            assert [asked(each) - b for each, b in zip(far, before, strict=True)] == [
                5 if each in held else 0 for each in far
            ]


async def test_a_request_at_an_address_that_is_given_up_moves_on_to_another() -> None:
    far = [Paused(), Paused()]
    far[0].free.clear()
    async with replicas(*far) as uplink:
        gone = next(each for each in uplink.replicas if each.name == far[0].address)
        sizes = (16, 16, 1 << 20, 1 << 20, 16, 16)  # small ones on a stream, large ones on their own, for each
        alike = [asyncio.create_task(uplink.infer(request(f"{size}", size), 5)) for size in sizes]
        await until(lambda: _true(asked(far[0]) == 3))
        leaving = [each for each in alike if not each.done()][-1]
        leaving.cancel()
        await gone.close()
        moved = [each for each in alike if each is not leaving]
        answers = Counter(name_in(call.reply) for call in await asyncio.gather(*moved))
        assert answers == {"16": 3, "1048576": 2}
        with pytest.raises(asyncio.CancelledError):
            await leaving
