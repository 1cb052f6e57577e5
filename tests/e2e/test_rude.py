"""What the soak does to a device: clients that vanish or leave streams half open, and connections that say nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from benchmarks import idle_connections
from benchmarks.rude import Rude
from device_agent.client import AsyncClient
from services import bundle
from testbed.links import parse_address
from tests.calls import until
from tests.tiers import device


async def test_of_rude_clients_nothing_is_left_and_others_are_served(tiny: Path) -> None:
    pixels = bundle.load_samples(bundle.load(tiny))[0][..., None]
    images, enough = [pixels[:1], pixels[1:2], pixels[:8]], asyncio.Event()
    async with device(tiny) as front, AsyncClient(front.address) as client:
        rude = Rude(front.address, "tiny", images, seed=3)
        visiting = asyncio.create_task(rude.run(enough, every_seconds=0.01))

        async def visited() -> bool:
            return min(rude.counts["vanished"], rude.counts["left_half_open"]) >= 5

        await until(visited)
        assert len(await client.infer("tiny", images[2])) == 8
        enough.set()
        await asyncio.wait_for(visiting, 20)

        async def idle() -> bool:
            return front.limiter.in_flight == 0

        await until(idle)


async def test_connections_that_say_nothing_keep_nobody_out(tiny: Path) -> None:
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    async with device(tiny) as front, AsyncClient(front.address) as client:
        held = idle_connections.opened(parse_address(front.address), 200)
        opened = await asyncio.to_thread(held.__enter__)
        try:
            assert (opened.count, opened.refused) == (200, "")
            assert len(await client.infer("tiny", pixels)) == 1
        finally:
            await asyncio.to_thread(held.__exit__, None, None, None)
