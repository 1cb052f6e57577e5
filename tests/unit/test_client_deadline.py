"""What is known of the link decides whether a call still fits into its deadline; old knowledge does not."""

from __future__ import annotations

import numpy as np
import pytest

from services import codec
from services.client import GrpcNextTier, _header
from services.connection import Call, _kind
from services.domain import Deadline, Payload, Plan, Request, Segment, Stage, Tier
from services.errors import DeadlineExceeded, Unavailable
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.traffic import Crossing
from services.uplink import Uplink
from tests.fakes import FakeClock

MEGABYTE = np.zeros((1, 1 << 18), np.float32)
PLAN = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 1), "fp32")))


async def test_a_hop_too_slow_for_the_deadline_is_skipped_only_while_that_is_fresh_news() -> None:
    clock = FakeClock(100)
    uplink = Uplink(Tier.DEVICE, "127.0.0.1:1", clock=clock)
    tier = GrpcNextTier(uplink, 2, clock=clock)
    for _ in range(3):
        uplink.replicas.lead().connection._estimator.record(0, 5.0)
    request = Request("r", "hash", PLAN, 0, np.zeros((1, 4), np.float32), Deadline.after(2.0))
    with pytest.raises(DeadlineExceeded):
        await tier.infer(request, "fp32")
    clock.now += 3
    with pytest.raises(Unavailable):  # nobody is there, but now it was tried
        await tier.infer(request, "fp32")
    await uplink.close()


async def test_a_hop_whose_bytes_would_not_be_through_in_time_is_skipped_and_costs_its_replica_nothing() -> None:
    clock = FakeClock(100)
    uplink = Uplink(Tier.DEVICE, "127.0.0.1:1", clock=clock)
    tier, lead = GrpcNextTier(uplink, 2, clock=clock), uplink.replicas.lead()
    for nbytes in (1_000, 60_000) * 8:
        lead.connection._record(Crossing(nbytes, clock.now), 0.01 + nbytes / 500_000)
        clock.now += 0.05
    assert lead.connection.link().up_bytes_per_second == pytest.approx(500_000, rel=0.3)
    for seconds, samples in ((1.0, MEGABYTE), (0.05, MEGABYTE[:, : 1 << 14])):
        with pytest.raises(DeadlineExceeded, match="no time left"):
            await tier.infer(Request("r", "hash", PLAN, 0, samples, Deadline.after(seconds)), "fp32")
    assert uplink.states() == [("127.0.0.1:1", 0)]
    with pytest.raises(Unavailable):  # this one has the time, and nobody is there
        await tier.infer(Request("r", "hash", PLAN, 0, MEGABYTE, Deadline.after(60.0)), "fp32")
    await uplink.close()


async def test_a_hop_to_who_would_not_have_computed_in_time_is_skipped_while_that_is_news() -> None:
    clock = FakeClock(100)
    uplink = Uplink(Tier.DEVICE, "127.0.0.1:1", clock=clock)
    tier, connection = GrpcNextTier(uplink, 2, clock=clock), uplink.replicas.lead().connection
    request = Request("r", "hash", PLAN, 0, np.zeros((1, 4), np.float32), Deadline.after(2.0))
    kind = _kind(Framed(_header(request, 2.0), pb.Activation(shape=(1, 4)), b""))
    for _ in range(3):
        connection._record(Crossing(16, clock.now), 0.001)
        connection._held.note(kind, 4.0)
    with pytest.raises(DeadlineExceeded, match="no time left"):
        await tier.infer(request, "fp32")
    clock.now += 3
    connection._record(Crossing(16, clock.now), 0.001)  # a probe keeps the link known, not how busy the far side is
    with pytest.raises(Unavailable):
        await tier.infer(request, "fp32")
    await uplink.close()


class Slow:
    """A codec that takes its time."""

    def __init__(self, clock: FakeClock, seconds: float):
        self._clock, self._seconds = clock, seconds

    def encode(self, activation: np.ndarray) -> Payload:
        self._clock.now += self._seconds
        return Payload(activation.shape, "fp32", activation.tobytes())


@pytest.mark.parametrize(("takes", "error"), [(0.5, Unavailable), (0.995, DeadlineExceeded), (5.0, DeadlineExceeded)])
async def test_what_encoding_takes_is_not_left_for_the_way(
    monkeypatch: pytest.MonkeyPatch, takes: float, error: type[Exception]
) -> None:
    clock, left = FakeClock(100), list[float]()
    uplink = Uplink(Tier.DEVICE, "127.0.0.1:1", clock=clock)
    tier = GrpcNextTier(uplink, 2, clock=clock)
    monkeypatch.setattr(codec, "carrying", lambda *given: Slow(clock, takes))

    async def sent(message: Framed, timeout_seconds: float, expected_seconds: float | None) -> Call:
        left.append(timeout_seconds)
        raise Unavailable("asked")

    monkeypatch.setattr(uplink, "infer", sent)
    with pytest.raises(error):
        await tier.infer(Request("r", "hash", PLAN, 0, MEGABYTE, Deadline.after(1.0, clock)), "fp32")
    assert all(0 < seconds < 1.0 - takes for seconds in left)
    assert bool(left) == (error is Unavailable)
    await uplink.close()


async def test_a_call_that_another_replica_keeps_waiting_says_nothing_of_the_link_that_is_believed_in() -> None:
    clock = FakeClock(100)
    uplink = Uplink(Tier.DEVICE, "127.0.0.1:1,127.0.0.1:2", clock=clock)
    for replica in uplink.replicas:
        for _ in range(9):
            replica.connection._estimator.record(0, 0.01)
    lead, other = uplink.replicas.lead(), list(uplink.replicas)[1]
    other.connection._estimator.failed(0, 0.4)
    assert other.connection.overdue
    assert not uplink.overdue
    lead.connection._estimator.failed(0, 0.4)
    assert uplink.overdue
    await uplink.close()
