"""What is written down of what a turn of the bench puts on its link, and what keeps it from doing so."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from services.client import GrpcNextTier
from services.connection import Connection, Silence
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.errors import DeadlineExceeded, OfframpError, UpstreamUnavailable
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.traffic import Crossing
from testbed.bench import booked
from testbed.bench.booked import Book
from testbed.bench.world import Line
from testbed.traces import ConstantRate
from tests.fakes import FakeClock

RATE = 1000.0
HEADER_BYTES = 50
PLAN = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 1), "fp32")))


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> Book:
    """Of a link over which every call stays away for a moment, and then fails."""

    async def fails(*_: object) -> None:
        await asyncio.sleep(0)
        raise Silence(UpstreamUnavailable("nobody there"))

    monkeypatch.setattr(Connection, "_reply", fails)
    monkeypatch.setattr(Connection, "probe", fails)
    return Book(Line(ConstantRate(RATE), 0.005), HEADER_BYTES, clock)


def message(nbytes: int) -> Framed:
    return Framed(pb.InferRequest(), pb.Activation(shape=[1]), bytes(nbytes))


async def asked(book: Book, knowing: bool, times: int = 1) -> list[type[BaseException]]:
    """How calls of 1,000 bytes end, one after the other."""
    uplink, ends = booked.uplink("127.0.0.1:1", 1 << 20, book, knowing), []
    for _ in range(times):
        try:
            await uplink.infer(message(1000), 1.0)
        except OfframpError as error:
            ends.append(type(error))
    await uplink.close()
    return ends


async def test_the_link_is_busy_with_what_was_put_on_it_since_the_trace_began(book: Book, clock: FakeClock) -> None:
    clock.now = 7.0
    book.begin()
    clock.now = 8.0
    uplink = booked.uplink("127.0.0.1:1", 1 << 20, book)
    calls = [asyncio.create_task(uplink.infer(message(1000), 1.0)) for _ in range(2)]
    await asyncio.sleep(0)
    assert book.now() == 1.0
    assert book.line.free == pytest.approx(1.0 + 2 * (1000 + HEADER_BYTES) / RATE)
    assert book.traffic.ahead_seconds(500.0) == pytest.approx(4.0)
    await asyncio.gather(*calls, return_exceptions=True)
    assert book.traffic.ahead_seconds(500.0) == 0.0
    await uplink.close()


async def test_calls_in_vain_and_probes_are_bytes_that_were_sent(book: Book) -> None:
    assert await asked(book, knowing=False) == [UpstreamUnavailable]
    uplink = booked.uplink("127.0.0.1:1", 1 << 20, book)
    with pytest.raises(UpstreamUnavailable):
        await uplink.probe(24, 1.0)
    assert book.sent_bytes == 1024
    await uplink.close()


@pytest.mark.parametrize(("knowing", "end", "sent"), [(False, DeadlineExceeded, 0), (True, UpstreamUnavailable, 1000)])
@pytest.mark.parametrize("rtt_seconds", [0.9, 5.0])  # too much for the way and the bytes, and for the way alone
async def test_what_is_refused_for_want_of_time_was_not_sent_unless_by_who_knows_the_link(
    book: Book, knowing: bool, end: type[OfframpError], sent: int, rtt_seconds: float
) -> None:
    uplink = booked.uplink("127.0.0.1:1", 1 << 20, book, knowing)
    for nbytes in (0, 60_000) * 8:
        uplink.replicas.lead().connection._record(Crossing(nbytes, 0.0), rtt_seconds + nbytes / 5_000)
    request = Request("r", "hash", PLAN, 0, np.zeros((1, 250), np.float32), Deadline.after(1.0))
    with pytest.raises(end):
        await GrpcNextTier(uplink, 2).infer(request, "fp32")
    assert (book.sent_bytes, book.line.free > 0) == (sent, sent > 0)
    await uplink.close()


@pytest.mark.parametrize(("knowing", "sent"), [(False, 5000), (True, 9000)])
async def test_a_breaker_keeps_back_all_but_who_knows_the_link(book: Book, knowing: bool, sent: int) -> None:
    await asked(book, knowing, times=9)
    assert book.sent_bytes == sent
