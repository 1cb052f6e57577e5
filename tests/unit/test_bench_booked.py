"""What an uplink of the bench writes down of what is put on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.errors import UpstreamUnavailable
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.uplink import Uplink
from testbed.bench.booked import BookedUplink
from testbed.bench.world import Line
from testbed.traces import ConstantRate
from tests.fakes import FakeClock

RATE = 1000.0
HEADER_BYTES = 50


@pytest.fixture
async def uplink(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> AsyncIterator[BookedUplink]:
    """One over which every call stays away for a moment, and then fails."""

    async def fails(*_: object) -> None:
        await asyncio.sleep(0)
        raise UpstreamUnavailable("nobody there")

    monkeypatch.setattr(Uplink, "infer", fails)
    monkeypatch.setattr(Uplink, "probe", fails)
    booked = BookedUplink("127.0.0.1:1", 1 << 20, Line(ConstantRate(RATE), 0.005), HEADER_BYTES, clock)
    yield booked
    await booked.close()


def message(nbytes: int) -> Framed:
    return Framed(pb.InferRequest(), pb.Activation(), bytes(nbytes))


async def test_the_link_is_busy_with_what_was_put_on_it_since_the_trace_began(
    uplink: BookedUplink, clock: FakeClock
) -> None:
    clock.now = 7.0
    uplink.begin()
    clock.now = 8.0
    calls = [asyncio.create_task(uplink.infer(message(1000), 1.0)) for _ in range(2)]
    await asyncio.sleep(0)
    assert uplink.now() == 1.0
    assert uplink.line.free == pytest.approx(1.0 + 2 * (1000 + HEADER_BYTES) / RATE)
    assert uplink.traffic.ahead_seconds(500.0) == pytest.approx(4.0)
    await asyncio.gather(*calls, return_exceptions=True)
    assert uplink.traffic.ahead_seconds(500.0) == 0.0


async def test_calls_in_vain_and_probes_are_bytes_that_were_sent(uplink: BookedUplink) -> None:
    with pytest.raises(UpstreamUnavailable):
        await uplink.infer(message(1000), 1.0)
    with pytest.raises(UpstreamUnavailable):
        await uplink.probe(24, 1.0)
    assert uplink.sent_bytes == 1024
