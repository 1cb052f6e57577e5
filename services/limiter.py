"""Admission: how many requests a tier holds at once. Refusing early is what keeps the queue bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from services.errors import Draining, InvalidInput, ModelNotReady, QueueFull, TooLarge, Unavailable

ORDINARY = 1
"""The last priority that is not low; 0 is none given, and 1 the highest that can be asked for."""

_LOW_SHARE = 0.75

_REFUSALS = (QueueFull, Draining, ModelNotReady)


@dataclass(slots=True)
class Limiter:
    """Admits up to `max_in_flight` requests, waiting ones included; none before it is warm or while draining.

    whole: what this is a part of, which must admit them too: the tier, of one of its models. rejected: how many were
    turned away, here or in a part of this, by reason.
    """

    max_in_flight: int
    in_flight: int = 0
    warm: bool = True
    draining: bool = False
    whole: Limiter | None = None
    rejected: dict[str, int] = field(default_factory=lambda: {kind.reason: 0 for kind in _REFUSALS})

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.warm and not self.draining and (self.whole is None or self.whole.ready)

    @contextmanager
    def admit(self, priority: int = 0) -> Iterator[None]:
        """Holds a place for the body. Raises ModelNotReady, Draining or QueueFull instead of waiting.

        priority: above 1 is low, and finds no place once three quarters are taken, so that the others still do.
        """
        with self.whole.admit() if self.whole is not None else nullcontext():
            self._check(self.max_in_flight if priority <= ORDINARY else math.ceil(_LOW_SHARE * self.max_in_flight))
            self.in_flight += 1
            try:
                yield
            finally:
                self.in_flight -= 1

    def _check(self, limit: int) -> None:
        refusal = self._refusal(limit)
        if refusal is not None:
            for each in (self, self.whole):
                if each is not None:
                    each.rejected[refusal.reason] += 1
            raise refusal

    def _refusal(self, limit: int) -> Unavailable | None:
        if not self.warm:
            return ModelNotReady("the model is still warming up; try again shortly")
        if self.draining:
            return Draining("this tier is shutting down; try another")
        if self.in_flight >= limit:
            return QueueFull(f"{self.in_flight} requests are in flight here already; try again shortly")
        return None


def check_batch(count: int, limit: int) -> None:
    """Raises InvalidInput for an empty batch, TooLarge for one over the limit."""
    if count < 1:
        raise InvalidInput("the batch is empty")
    if count > limit:
        raise TooLarge(f"the batch has {count} samples, this tier takes {limit}")
