"""An uplink that keeps book of what the device puts on it: what a simulated link knows of itself, on a running one."""

from __future__ import annotations

import time

from services.connection import Call
from services.domain import Clock, Tier
from services.framing import Framed
from services.traffic import Traffic
from services.uplink import Uplink
from testbed.bench.world import Line


class BookedUplink(Uplink):
    """The device's uplink, over a link that follows a trace.

    line: the link, with all that was put on it. traffic: the calls in flight. sent_bytes: payloads of all calls, of
    those in vain too, and of probes. header_bytes: what goes up besides a payload.
    """

    def __init__(
        self, target: str, max_message_bytes: int, line: Line, header_bytes: int, clock: Clock = time.monotonic
    ):
        super().__init__(Tier.DEVICE, target, max_message_bytes, clock)
        self.line, self.traffic, self.sent_bytes = line, Traffic(clock), 0
        self._header_bytes, self._began = header_bytes, clock()

    def begin(self) -> None:
        """The trace begins now."""
        self._began = self._clock()

    def now(self) -> float:
        """Seconds of the trace that have passed."""
        return self._clock() - self._began

    async def infer(self, message: Framed, timeout_seconds: float, expected_seconds: float | None = None) -> Call:
        self._book(message.nbytes)
        with self.traffic.crossing(message.nbytes):
            return await super().infer(message, timeout_seconds, expected_seconds)

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        self._book(nbytes)
        with self.traffic.crossing(nbytes, probes=True):
            await super().probe(nbytes, timeout_seconds)

    def _book(self, nbytes: int) -> None:
        self.sent_bytes += nbytes
        self.line.send(self.now(), nbytes + self._header_bytes)
