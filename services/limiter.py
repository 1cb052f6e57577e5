"""Admission: how many requests a tier holds at once. Refusing early is what keeps the queue bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.errors import Draining, InvalidInput, ModelNotReady, QueueFull, TooLarge


@dataclass(slots=True)
class Limiter:
    """Admits up to `max_in_flight` requests, waiting ones included; none before it is warm or while draining."""

    max_in_flight: int
    in_flight: int = 0
    warm: bool = True
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.warm and not self.draining

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place for the body. Raises ModelNotReady, Draining or QueueFull instead of waiting."""
        if not self.warm:
            raise ModelNotReady("the model is still warming up; try again shortly")
        if self.draining:
            raise Draining("this tier is shutting down; try another")
        if self.in_flight >= self.max_in_flight:
            raise QueueFull(f"{self.max_in_flight} requests are in flight here already; try again shortly")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


def check_batch(count: int, limit: int) -> None:
    """Raises InvalidInput for an empty batch, TooLarge for one over the limit."""
    if count < 1:
        raise InvalidInput("the batch is empty")
    if count > limit:
        raise TooLarge(f"the batch has {count} samples, this tier takes {limit}")
