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
from testbed.chaos.schedule import LINKS, TIERS, Target
from testbed.local import Part, Testbed, TestbedSettings


class World:
    """A running testbed. A tier that was made to end is not missed; one that goes by itself is."""

    def __init__(self, testbed: Testbed, logs: Path):
        self.device = testbed.device
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

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that should be running, nearest to the client first, then the edge nodes that nothing is done to."""
        near, edge, far, cloud = (self._parts[t] for t in (*LINKS[:1], *TIERS[:1], *LINKS[1:], *TIERS[1:]))
        return (self.device, near, edge, far, cloud, *self._replicas)

    def gone(self) -> list[Part]:
        """The parts that went away by themselves."""
        missed = [self.device, *self._replicas, *(p for t, p in self._parts.items() if t not in self._ended)]
        return [each for each in missed if each.process.returncode is not None]

    async def kill(self, target: Target) -> None:
        """Ends a tier at once."""
        self._ended.add(target)
        part = self._parts[target]
        if part.process.returncode is None:
            part.process.kill()
        await part.process.wait()

    async def drain(self, target: Target) -> None:
        """Asks a tier to end, and waits until it has."""
        self._ended.add(target)
        await local.stop(self._parts[target].process)

    async def start(self, target: Target) -> None:
        """Starts a tier that ended, at the addresses it had. Raises TestbedError where it does not come up."""
        part, self._starts = self._parts[target], self._starts + 1
        self._parts[target] = await local.again(part, self._logs / f"{part.name}.{self._starts}.jsonl")
        self._ended.discard(target)

    def pause(self, target: Target) -> None:
        """Stops a tier, whose connections stay open."""
        self._signal(target, signal.SIGSTOP)

    def resume(self, target: Target) -> None:
        """Lets a tier that was stopped go on."""
        self._signal(target, signal.SIGCONT)

    async def carry(self, target: Target, carrying: bool) -> None:
        """Has a link carry, or not; nothing on it is dropped."""
        await reshape.change(self._parts[target].announced["control"], {"carrying": carrying})

    async def shape(self, target: Target, rate: str, rtt: str) -> None:
        """Gives a link another rate and round trip."""
        await reshape.change(self._parts[target].announced["control"], {"rate": rate, "rtt": rtt})

    async def close(self) -> None:
        """Ends what was started again, from the device up, so that nobody drains into a tier that is gone."""
        for target in TIERS:
            self.resume(target)
        for part in (self.device, *(self._parts[target] for target in TIERS)):
            await local.stop(part.process)

    def _signal(self, target: Target, number: signal.Signals) -> None:
        process = self._parts[target].process
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


@asynccontextmanager
async def running(settings: TestbedSettings) -> AsyncIterator[World]:
    """Starts the testbed; drains it in the end, wherever faults have left it."""
    async with local.running(replace(settings, console="-")) as testbed:
        world = World(testbed, settings.logs)
        try:
            yield world
        finally:
            await asyncio.shield(world.close())
