"""Replicas that take calls and answer none, below plans too fast to tell by a call; and a link that was away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.breaker import BreakerState
from services.connection import Silence
from services.domain import LinkEstimate, Tier
from services.errors import DeadlineExceeded
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.uplink import Uplink

FAST_PLAN = 0.09, 0.02
"""What a call is given, and what its whole plan should take, seconds."""


@dataclass
class Mute:
    """A connection to who answers neither calls nor checks of its health while `hangs`; probes it always answers."""

    hangs: bool = True
    checks: int = 0
    state: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def infer(self, *asked: object) -> None:
        raise Silence(DeadlineExceeded("too late"))

    async def watch(self) -> AsyncIterator[bool]:
        await self.closed.wait()
        yield False

    async def serves(self, seconds: float) -> bool:
        self.checks += 1
        return not self.hangs

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        pass

    async def prepare(self, *asked: object) -> None:
        pass

    def link(self) -> LinkEstimate:
        return LinkEstimate(Tier.DEVICE)

    async def close(self) -> None:
        self.closed.set()


def uplink_to(*connections: Mute) -> Uplink:
    left: list[Any] = list(connections)
    return Uplink(Tier.DEVICE, ",".join(f"replica{i}:1" for i in range(len(left))), opens=lambda *_: left.pop(0))


async def ask(uplink: Uplink) -> None:
    with pytest.raises(DeadlineExceeded):
        await uplink.infer(Framed(pb.InferRequest(), pb.Activation(), b""), *FAST_PLAN)
    await settled()


async def settled() -> None:
    """What can be done at once in the background is done."""
    for _ in range(8):
        await asyncio.sleep(0)


@pytest.mark.parametrize("trial", [False, True])
async def test_of_several_the_one_that_hangs_is_left_alone_as_its_health_tells(trial: bool) -> None:
    uplink = uplink_to(Mute(), Mute())
    for replica in uplink.replicas:
        if trial:
            replica.breaker.state = BreakerState.HALF_OPEN
    await ask(uplink)
    assert [replica.usable for replica in uplink.replicas].count(False) == 1
    await uplink.close()


async def test_of_several_one_that_is_healthy_is_kept_though_calls_were_too_short() -> None:
    connections = Mute(hangs=False), Mute(hangs=False)
    uplink = uplink_to(*connections)
    for _ in range(3):
        await ask(uplink)
    assert all(replica.usable for replica in uplink.replicas)
    assert sum(each.checks for each in connections) > 0
    await uplink.close()


async def test_a_single_one_is_asked_on_since_its_link_may_be_away_for_a_moment_only() -> None:
    connection = Mute()
    uplink = uplink_to(connection)
    for _ in range(3):
        await ask(uplink)
    assert uplink.replicas.lead().usable
    assert connection.checks == 0
    await uplink.close()


async def test_a_probe_that_comes_back_has_all_checked_on_where_nobody_was_usable() -> None:
    connections = Mute(), Mute()
    uplink = uplink_to(*connections)
    for replica in uplink.replicas:
        replica.breaker.dead()
        replica.fell_silent()  # is checked on from now on, once it has been left alone for long enough
    for each in connections:
        each.hangs = False
    await settled()
    assert not any(replica.usable for replica in uplink.replicas)
    await uplink.probe(0, 1.0)
    await settled()
    assert all(replica.usable for replica in uplink.replicas)
    assert [each.checks for each in connections] == [1, 1]
    await uplink.close()
