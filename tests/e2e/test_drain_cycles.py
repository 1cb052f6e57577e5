"""One of two edge replicas is told to end and started again, time after time, under load: nobody notices.

`DRAIN_CYCLES=100` is the whole of it; without, a few of each way to forward.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from device_agent.client import AsyncClient
from services import bundle
from services.uplink import Uplink
from tests.calls import until
from tests.e2e.test_drain import PATIENCE, Load, Node, node
from tests.tiers import Running, device

CYCLES = int(os.environ.get("DRAIN_CYCLES", "8"))


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return np.repeat(bundle.load_samples(bundle.load(tiny))[0][..., None], 2, axis=0)


def uplink_of(front: Running) -> Uplink:
    return front.runtime.next_tier._uplink  # type: ignore[union-attr, no-any-return]


async def all_serve(front: Running) -> None:
    async def serve() -> bool:
        return all(replica.serving for replica in uplink_of(front).replicas)

    await until(serve)


async def answers(load: Load, count: int) -> None:
    goal = load.answered + count

    async def answered() -> bool:
        return load.answered >= goal or bool(load.refused)

    await until(answered)


class Heard:
    """An edge as a process whose log is read all the time: a full pipe would stop it."""

    def __init__(self, edge: Node):
        self.address, self._process = edge.address, edge.process
        self._last = b""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._last = line  # not all are ours: gRPC writes there, too

    async def end(self) -> None:
        """Has it drain and end, and waits for that."""
        self._process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self._process.wait(), PATIENCE)
        await self._reading
        assert (self._process.returncode, json.loads(self._last)["event"]) == (0, "stopped")

    async def kill(self) -> None:
        """Ends it at once, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
            await self._reading


@asynccontextmanager
async def edge(path: Path, *arguments: str) -> AsyncIterator[Heard]:
    async with node("edge_node", path, "--profile-seconds", "0", *arguments) as running:
        heard = Heard(running)
        try:
            yield heard
        finally:
            await heard.kill()


@pytest.mark.parametrize("way", ["exchange", "unary"])
async def test_an_edge_replica_that_ends_and_comes_back_is_missed_by_nobody(
    tiny: Path, pixels: np.ndarray, way: str
) -> None:
    async with AsyncExitStack() as stack:
        stays = await stack.enter_async_context(edge(tiny))
        goes = await stack.enter_async_context(edge(tiny))
        address = goes.address
        target = f"{stays.address},{address}"
        front = await stack.enter_async_context(device(tiny, target, splits="2,8", transport=way))
        client = await stack.enter_async_context(AsyncClient(front.address))
        await all_serve(front)
        load = Load(client, pixels)
        for _ in range(CYCLES // 2):
            await answers(load, 30)
            await goes.end()
            assert not load.refused
            goes = await stack.enter_async_context(edge(tiny, "--listen", address))
            await all_serve(front)
        await load.stop()
    assert not load.refused
    assert load.degraded == set()
