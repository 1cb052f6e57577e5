"""An uplink that keeps book of what the device puts on it: what a simulated link knows of itself, on a running one."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from services.connection import Connection
from services.domain import Clock, LinkEstimate, Tier
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.traffic import Crossing, Traffic
from services.uplink import Uplink
from testbed.bench.trusting import TrustingBreaker
from testbed.bench.world import Line


class Book:
    """What is put on a link that follows a trace.

    line: the link, with all that was put on it. traffic: the calls in flight. sent_bytes: payloads of all calls that
    went out, of those in vain too, and of probes. header_bytes: what goes up besides a payload.
    """

    def __init__(self, line: Line, header_bytes: int, clock: Clock = time.monotonic):
        self.line, self.traffic, self.sent_bytes = line, Traffic(clock), 0
        self._header_bytes, self._clock, self._began = header_bytes, clock, clock()

    def begin(self) -> None:
        """The trace begins now."""
        self._began = self._clock()

    def now(self) -> float:
        """Seconds of the trace that have passed."""
        return self._clock() - self._began

    def note(self, nbytes: int) -> None:
        """So many go out now."""
        self.sent_bytes += nbytes
        self.line.send(self.now(), nbytes + self._header_bytes)


def uplink(target: str, max_message_bytes: int, book: Book, knowing: bool = False) -> Uplink:
    """The device's uplink, written down in `book`.

    knowing: for who knows the link itself: calls go out whatever this end makes of what it saw of the link.
    """
    opens = partial(BookedConnection, book, knowing)
    found = Uplink(Tier.DEVICE, target, max_message_bytes, opens=opens)
    if knowing:
        for replica in found.replicas:
            replica.breaker = TrustingBreaker()
    return found


class BookedConnection(Connection):
    """Writes down what really goes out: not what is refused before, for want of time or by a breaker."""

    def __init__(self, book: Book, knowing: bool, source: Tier, *arguments: Any):
        super().__init__(source, *arguments)
        self._book, self._knowing, self._source = book, knowing, source

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        self._book.note(nbytes)
        with self._book.traffic.crossing(nbytes, probes=True):
            await super().probe(nbytes, timeout_seconds)

    async def _reply(
        self, message: Framed, timeout_seconds: float, connected: bool, crossing: Crossing
    ) -> pb.InferReply:
        self._book.note(message.nbytes)
        with self._book.traffic.crossing(message.nbytes):
            return await super()._reply(message, timeout_seconds, connected, crossing)

    def link(self) -> LinkEstimate:
        """Who knows the link itself keeps nothing back for what was seen of it."""
        return LinkEstimate(self._source) if self._knowing else super().link()
