"""Does the faults of a schedule to a world, and undoes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from services.domain import Clock
from testbed.chaos.history import Event
from testbed.chaos.schedule import LINKS, QUIET_SECONDS, Action, Fault, Target
from testbed.chaos.world import World
from testbed.local import TestbedSettings
from testbed.traces import format_rate, parse_rate

SLOW_SHARE = 0.01
_TURN_SECONDS = 0.3

OnFault = Callable[[Fault, bool], None]
"""Told when a fault begins (True) and when it is undone (False)."""


class Faults:
    """Carries out a schedule. `events`: what was done so far. began: when the run did, on `clock`."""

    def __init__(
        self,
        world: World,
        settings: TestbedSettings,
        began: float,
        on_fault: OnFault = lambda fault, begins: None,
        clock: Clock = time.monotonic,
    ):
        self._world = world
        self._shapes = dict(zip(LINKS, (settings.device_edge, settings.edge_cloud), strict=True))
        self._began = began
        self._on_fault = on_fault
        self._clock = clock
        self.events: list[Event] = []

    async def run(self, schedule: Sequence[Fault]) -> None:
        """Does each fault when it is due, or later where the one before took longer, and waits until all is quiet."""
        late = 0.0
        for episode in episodes(schedule):
            began = episode[0].at
            await asyncio.sleep(began + late - self._now())
            await asyncio.gather(*(self._one(fault, fault.at - began) for fault in episode))
            planned = max(fault.at + fault.room for fault in episode)
            late = max(late, self._now() - planned)
        if schedule:
            await asyncio.sleep(QUIET_SECONDS)

    async def _one(self, fault: Fault, wait: float) -> None:
        await asyncio.sleep(wait)
        began = self._now()
        self._on_fault(fault, True)
        await self._do(fault)
        self.events.append(Event(fault.action, fault.target, began, self._now()))
        self._on_fault(fault, False)

    async def _do(self, fault: Fault) -> None:
        world, target = self._world, fault.target
        match fault.action:
            case Action.KILL:
                await world.kill(target)
                await asyncio.sleep(fault.seconds)
                await world.start(target)
            case Action.RESTART:
                await world.kill(target)
                await world.start(target)
            case Action.DRAIN:
                await world.drain(target)
                await world.start(target)
            case Action.PAUSE:
                await world.pause(target)
                await asyncio.sleep(fault.seconds)
                await world.resume(target)
            case Action.CUT:
                await self._cut(target, fault.seconds)
            case Action.FLAP:
                for _ in range(round(fault.seconds / (2 * _TURN_SECONDS))):
                    await self._cut(target, _TURN_SECONDS)
                    await asyncio.sleep(_TURN_SECONDS)
            case Action.SLOW:
                await self._slow(target, fault.seconds)

    async def _cut(self, target: Target, seconds: float) -> None:
        await self._world.carry(target, False)
        await asyncio.sleep(seconds)
        await self._world.carry(target, True)

    async def _slow(self, target: Target, seconds: float) -> None:
        asked = self._shapes[target]
        await self._world.shape(target, format_rate(SLOW_SHARE * parse_rate(asked.rate)), asked.rtt)
        await asyncio.sleep(seconds)
        await self._world.shape(target, asked.rate, asked.rtt)

    def _now(self) -> float:
        return self._clock() - self._began


def episodes(schedule: Sequence[Fault]) -> list[list[Fault]]:
    """Faults that overlap, together."""
    found: list[list[Fault]] = []
    for fault in schedule:
        if found and fault.at < max(each.at + each.room for each in found[-1]):
            found[-1].append(fault)
        else:
            found.append([fault])
    return found
