"""Which tiers can be reached, as far as the links tell: one that was known and is not any more answers nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.domain import LinkEstimate, Tier

QUIET_SECONDS = 55.0
"""After a minute without a call an estimate is forgotten, too: that says nothing of the link."""


@dataclass(slots=True)
class Reach:
    """Since when links are lost, by the tier below them. Times are seconds since the epoch."""

    _heard_at: dict[Tier, float] = field(default_factory=dict)
    _lost_at: dict[Tier, float] = field(default_factory=dict)

    def look(self, links: Iterable[LinkEstimate], now: float) -> None:
        """Takes in what is believed of links. Only failures make an estimate unknown before its time."""
        for link in links:
            source = link.source
            if link.rtt_seconds is not None:
                self._heard_at[source] = now - (link.age_seconds or 0.0)
                self._lost_at.pop(source, None)
            elif now - self._heard_at.get(source, float("-inf")) < QUIET_SECONDS:
                self._lost_at.setdefault(source, self._heard_at[source])

    def lost_at(self) -> Mapping[Tier, float]:
        """When the far side was last heard of each link that is lost."""
        return dict(self._lost_at)
