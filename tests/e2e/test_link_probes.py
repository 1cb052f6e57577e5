"""Probes of a real tier over a real emulated link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from services import bundle
from services.client import GrpcNextTier
from services.connection import Transport
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.errors import Unavailable
from services.probing import Prober
from services.uplink import Uplink
from testbed.links import EmulatedLink, parse_address, symmetric
from tests.tiers import upper

PATIENCE = 20.0
RATE = 1.25e6
RTT = pytest.approx(0.025, abs=0.012)
TURNS = 8  # a machine that stalls looks like a slower link while it does; a fault shows in every one of them


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def believed(uplink: Uplink) -> tuple[float | None, float | None]:
    link = uplink.link()
    return link.up_bytes_per_second, link.rtt_seconds


@asynccontextmanager
async def probed(tiny: Path) -> AsyncIterator[tuple[EmulatedLink, Uplink]]:
    """A link of 10 Mbit/s and 20 ms, with a prober on it."""
    async with upper(Tier.CLOUD, tiny) as cloud:
        with EmulatedLink(("127.0.0.1", 0), parse_address(cloud.address), *symmetric(RATE, 0.020)) as link:
            tier = Uplink(Tier.EDGE, "{}:{}".format(*link.address))
            stop = asyncio.Event()
            probing = asyncio.create_task(Prober(tier).run(stop))
            yield link, tier
            stop.set()
            await asyncio.wait_for(probing, 1)
            await tier.close()


async def test_probes_alone_find_rate_and_rtt_and_notice_a_cut(tiny: Path) -> None:
    async with probed(tiny) as (link, tier):
        await until(lambda: believed(tier) == (pytest.approx(RATE, rel=0.6), RTT))
        link.cut()
        await until(lambda: tier.link().up_bytes_per_second is None and tier.link().rtt_seconds is None)
        link.restore()
        await until(lambda: tier.link().up_bytes_per_second)


@pytest.mark.parametrize("transport", ["exchange", "unary"])
async def test_requests_that_share_the_link_teach_its_rate_and_rtt(tiny: Path, transport: Transport) -> None:
    manifest = bundle.load(tiny).manifest
    whole = Stage(Tier.CLOUD, Segment(0, manifest.last))
    plan = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 0)), whole))
    true = pytest.approx(RATE, rel=0.4), RTT
    async with upper(Tier.CLOUD, tiny) as cloud:
        with EmulatedLink(("127.0.0.1", 0), parse_address(cloud.address), *symmetric(RATE, 0.020)) as link:
            uplink = Uplink(Tier.EDGE, "{}:{}".format(*link.address), transport=transport)
            above = GrpcNextTier(uplink, len(manifest.labels), manifest.input.preprocessing)

            async def ask(count: int) -> None:
                samples = np.random.default_rng(count).random((count, *manifest.input.shape), np.float32)
                await above.infer(Request("r", manifest.model_hash, plan, 0, samples, Deadline.after(20)), "fp32")

            for _ in range(TURNS):
                for count in (1, 8, 32, 128) * 4:
                    await asyncio.gather(ask(count), ask(1))
                if (found := believed(uplink)) == true:
                    break
            await uplink.close()
    assert found == true


async def test_a_probe_of_nobody_fails_and_leaves_the_link_unknown() -> None:
    tier = Uplink(Tier.EDGE, "127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await tier.probe(0, 2.0)
    assert tier.link().rtt_seconds is None
    assert tier.quiet_seconds() == float("inf")
    await tier.close()


async def test_a_request_stuck_on_a_dead_link_shows_before_it_ends(tiny: Path) -> None:
    manifest = bundle.load(tiny).manifest
    plan = Plan(
        (
            Stage(Tier.DEVICE, Segment(0, 0)),
            Stage(Tier.EDGE, Segment(0, 0)),
            Stage(Tier.CLOUD, Segment(0, manifest.last)),
        )
    )
    samples = np.zeros((64, *manifest.input.shape), np.float32)
    async with probed(tiny) as (link, uplink):
        above = GrpcNextTier(uplink, len(manifest.labels), manifest.input.preprocessing)

        async def ask(seconds: float) -> None:
            await above.infer(Request("r", manifest.model_hash, plan, 0, samples, Deadline.after(seconds)), "fp32")

        await until(lambda: uplink.link().up_bytes_per_second)
        for _ in range(3):
            await ask(20)
        usual = uplink.link().rtt_seconds or 0.0
        link.cut()
        stuck = asyncio.create_task(ask(5))
        await until(lambda: uplink.overdue)
        assert not stuck.done()
        assert (uplink.link().rtt_seconds or 0.0) > 2 * usual
        link.restore()
        await stuck
