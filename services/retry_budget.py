"""How much may be asked twice: a share of what is asked once, so that retries never multiply an overload."""

from __future__ import annotations

from dataclasses import dataclass

SHARE = 0.2
BURST = 10.0


@dataclass(slots=True)
class RetryBudget:
    """Each request earns `share` of a retry, up to `burst` in hand; each retry spends one."""

    share: float = SHARE
    burst: float = BURST
    _in_hand: float = BURST

    def asked(self) -> None:
        """A request was made for the first time."""
        self._in_hand = min(self.burst, self._in_hand + self.share)

    def take(self) -> bool:
        """Whether it may be made once more; if so, that is spent."""
        if self._in_hand < 1:
            return False
        self._in_hand -= 1
        return True
