"""An uplink that keeps book of what the device puts on it: what a simulated link knows of itself, on a running one."""

from __future__ import annotations

from services.connection import Call
from services.domain import Tier
from services.framing import Framed
from services.uplink import Uplink


class BookedUplink(Uplink):
    """The device's uplink. sent_bytes: payloads of all calls, of those in vain too, and of probes."""

    def __init__(self, target: str, max_message_bytes: int):
        super().__init__(Tier.DEVICE, target, max_message_bytes)
        self.sent_bytes = 0

    async def infer(self, message: Framed, timeout_seconds: float, expected_seconds: float | None = None) -> Call:
        self.sent_bytes += message.nbytes
        return await super().infer(message, timeout_seconds, expected_seconds)

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        self.sent_bytes += nbytes
        await super().probe(nbytes, timeout_seconds)
