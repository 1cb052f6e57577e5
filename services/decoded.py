"""Room for activations once they are decoded: how many bytes of float32 a tier holds at once, beside its messages.

A few kilobytes of zeros may become many megabytes, so what messages take says nothing of it. Nobody waits here: whoever
did would hold room for its message meanwhile, which may be what the others need to get on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from services.errors import QueueFull, TooLarge


def _full(why: str, ever: bool) -> QueueFull:
    return QueueFull(why) if ever else QueueFull(why, None)


@dataclass(slots=True)
class Decoded:
    """Holds up to `capacity` bytes; any number where nobody says how many.

    full: the error of who finds no room; False: and never will.
    """

    capacity: int = sys.maxsize
    full: Callable[[str, bool], QueueFull] = _full
    held: int = 0

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

    def take(self, size: int) -> None:
        """Holds `size` more of what another tier sent. Raises QueueFull where it does not fit, now or ever, which it
        then says: the tier below may have the memory, and then answers without this one.
        """
        room = self._room
        if room.held + size > room.capacity:
            taken = f"the activation takes {size} bytes decoded, and {room.held} of {room.capacity} are taken"
            raise room.full(taken, size <= room.capacity)
        room.held += size
        self._taken += size

    def bring(self, size: int) -> None:
        """As `take`, for what a caller brings. Raises TooLarge where it can never fit: nobody else will be asked."""
        if size > self._room.capacity:
            raise TooLarge(f"the input takes {size} bytes decoded, this tier has {self._room.capacity}")
        self.take(size)
