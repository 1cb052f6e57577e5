"""What waits to be written to one stream, and in which order: gathered, fair, and bounded.

Whatever waits when the write before is done goes into the next message, so that gathering delays nobody. An item of b
bytes is due b bytes after it came, counted in what is taken meanwhile: small ones overtake a large one, which lets
about as many bytes pass as it has itself, and no more.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")

GATHERED_BYTES = 1 << 18
"""Of one message made of several items. A larger item goes alone."""
GATHERED_ITEMS = 1024


class Outbox(Generic[T]):
    """Items for one stream, taken by one writer. Needs a running event loop."""

    def __init__(self, most_items: int, most_bytes: int, gathered_bytes: int = GATHERED_BYTES):
        self._heap: list[tuple[int, int, int, T]] = []  # when it is due, its turn among equals, its bytes
        self._turns = count()
        self._taken_bytes = 0
        self._waiting_bytes = 0
        self._most = most_items, most_bytes
        self._gathered_bytes = gathered_bytes
        self._room = asyncio.Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def full(self) -> bool:
        return len(self._heap) >= self._most[0] or self._waiting_bytes >= self._most[1]

    def put(self, item: T, nbytes: int) -> None:
        """Adds `item`, even to a full box: whoever can wait asks `full`, or waits for `room`."""
        heapq.heappush(self._heap, (self._taken_bytes + nbytes, next(self._turns), nbytes, item))
        self._waiting_bytes += nbytes
        if self.full:
            self._room.clear()

    async def room(self) -> None:
        """Waits until the box is not full."""
        await self._room.wait()

    def take(self) -> list[T]:
        """What goes into the next message, most urgent first; the rest stays."""
        taken: list[T] = []
        left = self._gathered_bytes
        while self._heap and len(taken) < GATHERED_ITEMS and (not taken or self._heap[0][2] <= left):
            _, _, nbytes, item = heapq.heappop(self._heap)
            left -= nbytes
            self._taken_bytes += nbytes
            self._waiting_bytes -= nbytes
            taken.append(item)
        if not self.full:
            self._room.set()
        return taken

    def rest(self) -> list[T]:
        """Everything that still waits; the box is empty after it."""
        items = [item for *_, item in self._heap]
        self._heap, self._waiting_bytes = [], 0
        self._room.set()
        return items
