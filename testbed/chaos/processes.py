"""The testbed as processes, each of which can be ended, stopped, and started again where it was.

Only processes that were started here are touched, by their ids. Nothing is left behind: what is stopped is continued
before it is asked to end, and parts end with this process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from testbed import local, reshape
from testbed.chaos import census
from testbed.chaos.history import Counters, Usage
from testbed.chaos.schedule import LINKS, TIERS, Target
from testbed.local import Testbed, TestbedSettings


class Processes:
    """A running testbed. A tier that was made to end is not missed; one that goes by itself is."""

    def __init__(self, testbed: Testbed, logs: Path):
        self._device = testbed.device
        self._replicas = testbed.replicas
        self._parts = {
            Target.EDGE: testbed.edge,
            Target.CLOUD: testbed.cloud,
            Target.DEVICE_EDGE: testbed.device_edge,
            Target.EDGE_CLOUD: testbed.edge_cloud,
        }
        self._logs = logs
        self._starts = 0
        self._ended: set[Target] = set()
        self._badly: list[str] = []

    @property
    def door(self) -> str:
        return self._device.address

    async def usage(self) -> dict[str, Usage]:
        """Nearest to the client first, then the edge nodes that nothing is done to."""
        near, edge, far, cloud = (self._parts[t] for t in (*LINKS[:1], *TIERS[:1], *LINKS[1:], *TIERS[1:]))
        parts = (self._device, near, edge, far, cloud, *self._replicas)
        return await census.usage(part for part in parts if part.process.returncode is None)

    async def counters(self) -> Counters:
        return await census.counters(self._device)

    async def gone(self) -> tuple[str, ...]:
        missed = [self._device, *self._replicas, *(p for t, p in self._parts.items() if t not in self._ended)]
        return (*(each.name for each in missed if each.process.returncode is not None), *self._badly)

    async def kill(self, target: Target) -> None:
        self._ended.add(target)
        part = self._parts[target]
        if part.process.returncode is None:
            part.process.kill()
        await part.process.wait()

    async def drain(self, target: Target) -> None:
        self._ended.add(target)
        part = self._parts[target]
        alive = part.process.returncode is None
        await local.stop(part.process)
        if alive and part.process.returncode:
            self._badly.append(f"{part.name}, which was drained, ended with {part.process.returncode}")

    async def start(self, target: Target) -> None:
        part, self._starts = self._parts[target], self._starts + 1
        self._parts[target] = await local.again(part, self._logs / f"{part.name}.{self._starts}.jsonl")
        self._ended.discard(target)

    async def pause(self, target: Target) -> None:
        self._signal(target, signal.SIGSTOP)

    async def resume(self, target: Target) -> None:
        self._signal(target, signal.SIGCONT)

    async def carry(self, target: Target, carrying: bool) -> None:
        await reshape.change(self._parts[target].announced["control"], {"carrying": carrying})

    async def shape(self, target: Target, rate: str, rtt: str) -> None:
        await reshape.change(self._parts[target].announced["control"], {"rate": rate, "rtt": rtt})

    async def close(self) -> None:
        """Ends what was started again, from the device up, so that nobody drains into a tier that is gone."""
        for target in TIERS:
            self._signal(target, signal.SIGCONT)
        for part in (self._device, *(self._parts[target] for target in TIERS)):
            await local.stop(part.process)

    def _signal(self, target: Target, number: signal.Signals) -> None:
        process = self._parts[target].process
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


@asynccontextmanager
async def running(settings: TestbedSettings) -> AsyncIterator[Processes]:
    """Starts the testbed; drains it in the end, wherever faults have left it."""
    async with local.running(replace(settings, console="-")) as testbed:
        world = Processes(testbed, settings.logs)
        try:
            yield world
        finally:
            await asyncio.shield(world.close())
