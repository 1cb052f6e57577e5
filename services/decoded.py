"""Room for activations once they are decoded: how many bytes of float32 a tier holds at once, beside its messages.

A few kilobytes of zeros may become many megabytes, so what messages take says nothing of it. Nobody waits here: whoever
did would hold room for its message meanwhile, which may be what the others need to get on.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from services.errors import QueueFull, TooLarge


@dataclass(slots=True)
class Decoded:
    """Holds up to `capacity` bytes; any number where nobody says how many."""

    capacity: int = sys.maxsize
    held: int = 0

    def check(self, size: int) -> None:
        """Raises TooLarge where `size` would not even fit alone."""
        if size > self.capacity:
            raise TooLarge(f"the activation takes {size} bytes once it is decoded, this tier has {self.capacity}")

    def holding(self) -> Holding:
        """What one request takes, until the body of a `with` ends."""
        return Holding(self)


class Holding:
    """What one request takes of the room: a class, since every request has one."""

    __slots__ = ("_room", "_taken")

    def __init__(self, room: Decoded):
        self._room = room
        self._taken = 0

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *error: object) -> None:
        self._room.held -= self._taken

    def check(self, size: int) -> None:
        """Raises TooLarge where `size` would not even fit alone."""
        self._room.check(size)

    def take(self, size: int) -> None:
        """Holds `size` more. Raises TooLarge where it can never fit, QueueFull where it does not now."""
        self.check(size)
        if self._room.held + size > self._room.capacity:
            raise QueueFull(f"{self._room.held} bytes of activations are here already; try again shortly")
        self._room.held += size
        self._taken += size
