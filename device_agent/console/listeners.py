"""Pages that listen: each gets every event through a short queue, and whoever falls behind has to come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from services.errors import QueueFull

MAX_LISTENERS = 16
_MAX_WAITING = 32


@dataclass(slots=True, eq=False)
class Listener:
    """One page, looking at one model. `events` are encoded; None is the end."""

    model: str
    events: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(_MAX_WAITING + 1))

    def tell(self, event: bytes) -> bool:
        """Whether there was room for it; the last place is kept for the end."""
        if self.events.qsize() >= _MAX_WAITING:
            return False
        self.events.put_nowait(event)
        return True


class Listeners:
    """All pages that listen, at most 16."""

    def __init__(self) -> None:
        self._all: set[Listener] = set()

    def __len__(self) -> int:
        return len(self._all)

    @property
    def models(self) -> set[str]:
        """The models that somebody looks at."""
        return {each.model for each in self._all}

    @contextmanager
    def listening(self, model: str) -> Iterator[Listener]:
        """A listener while the body lasts. Raises QueueFull where there are 16 already."""
        if len(self._all) >= MAX_LISTENERS:
            raise QueueFull(f"{MAX_LISTENERS} pages are open on this console already; close one")
        listener = Listener(model)
        self._all.add(listener)
        try:
            yield listener
        finally:
            self._all.discard(listener)

    def tell(self, model: str, name: str, value: Any) -> None:
        """Queues one event for every page on `model`; ends those that did not take the last ones."""
        event = encode(name, value)
        for each in list(self._all):
            if each.model == model and not each.tell(event):
                self._end(each)

    def end(self) -> None:
        """Ends all."""
        for each in list(self._all):
            self._end(each)

    def _end(self, listener: Listener) -> None:
        self._all.discard(listener)
        if not listener.events.full():
            listener.events.put_nowait(None)


def encode(name: str, value: Any) -> bytes:
    """One server-sent event (WHATWG HTML, section 9.2)."""
    return f"event: {name}\ndata: {json.dumps(value, separators=(',', ':'), allow_nan=False)}\n\n".encode()
