"""What is known of the link decides whether a call still fits into its deadline; old knowledge does not."""

from __future__ import annotations

import numpy as np
import pytest

from services.client import GrpcNextTier
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.errors import DeadlineExceeded, Unavailable
from services.uplink import Uplink
from tests.fakes import FakeClock

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
