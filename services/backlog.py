"""How long a run would wait for a worker of this tier: what is here already, times what one takes lately."""

from __future__ import annotations

from dataclasses import dataclass

_SHARE = 0.05
"""That one run has in what they take lately: some twenty count."""
_CAUTION = 1.5
"""Runs vary: whoever has just as long as one should take on average would be late every other time."""


@dataclass(slots=True)
class Backlog:
    """The runs of all models of a tier, which share `workers`.

    runs: waiting and running now. seconds: of a worker, that one takes lately, its share of a batch if it was in one;
    0 while that is unknown.
    """

    workers: int = 1
    runs: int = 0
    seconds: float = 0.0

    def took(self, seconds: float) -> None:
        """A run kept a worker for so long."""
        self.seconds += (seconds - self.seconds) * (_SHARE if self.seconds else 1.0)

    def ahead_seconds(self) -> float:
        """Until a run that came now would begin, most likely: one under way is half through."""
        ahead = self.runs - self.workers + 0.5
        return ahead / self.workers * self.seconds if ahead > 0 else 0.0

    def wait_seconds(self) -> float:
        """Until a run that came now would be done, on the safe side; 0 where a worker is free for it."""
        ahead = self.runs - self.workers + 1
        return _CAUTION * (ahead / self.workers + 1) * self.seconds if ahead > 0 else 0.0
