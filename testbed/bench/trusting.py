"""The breaker of who knows the link, and what is behind it."""

from __future__ import annotations

from services.breaker import Breaker


class TrustingBreaker(Breaker):
    """Never opens: an oracle knows when a link is back, and needs nobody to try."""

    def failed(self) -> None:
        """It knew that it might."""

    def dead(self) -> None:
        """It knows until when."""
