"""What a chaos run is done to: a testbed whose tiers can be ended and stopped, and whose links can be reshaped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from testbed.chaos.history import Counters, Usage
from testbed.chaos.schedule import Target
from testbed.local import TestbedSettings


class World(Protocol):
    """A running testbed, of processes or of containers. What cannot be done raises TestbedError or OSError."""

    @property
    def door(self) -> str:
        """Where the device answers, HOST:PORT."""

    async def usage(self) -> dict[str, Usage]:
        """What each part that is running holds now, by its name."""

    async def counters(self) -> Counters:
        """What the device has counted since it was started."""

    async def gone(self) -> tuple[str, ...]:
        """The parts that went away, and were not made to."""

    async def kill(self, target: Target) -> None:
        """Ends a tier at once."""

    async def drain(self, target: Target) -> None:
        """Asks a tier to end, and waits until it has."""

    async def start(self, target: Target) -> None:
        """Starts a tier that ended, where it was, and waits until it is ready."""

    async def pause(self, target: Target) -> None:
        """Stops a tier, whose connections stay open."""

    async def resume(self, target: Target) -> None:
        """Lets a tier that was stopped go on."""

    async def carry(self, target: Target, carrying: bool) -> None:
        """Has a link carry, or not; nothing on it is dropped."""

    async def shape(self, target: Target, rate: str, rtt: str) -> None:
        """Gives a link another rate and round trip."""


Start = Callable[[TestbedSettings], AbstractAsyncContextManager[World]]
"""Brings up a testbed, and leaves nothing behind; its logs are in `settings.logs` afterwards."""
