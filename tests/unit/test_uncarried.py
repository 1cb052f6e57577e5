"""An activation that no codec can carry, and a network that can be answered for all the same: where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from services import bundle, codec
from services.domain import DegradedReason, FloatArray, Request, Segment, Tier
from services.errors import NotCarried
from services.journey import Forwarded
from services.model import Model
from testbed.adopt import adopt
from tests.fakes import Above, FakeClock
from tests.journeys import request, runtime, stages
from tests.unit.test_still_input import graph, matrix

LARGE = np.array([[1.0, 2.0, 3.0, 1000.0]], np.float32)
"""Its exp is more than float32 holds; the network goes on with 9 instead."""


@dataclass(slots=True)
class Sending(Above):
    """As `Above`, by the codec that the plan names."""

    async def infer(self, request: Request, name: str) -> Forwarded:
        codec.get(name).encode(request.activation)
        return await Above.infer(self, request, name)


@pytest.fixture
def overflowing(tmp_path: Path) -> Model:
    """Its activation at split point 2 is not finite for `LARGE`, at 1 and 3 it is."""
    body = "h = MatMul(x, w) e = Exp(h) m = Min(e, most) y = MatMul(m, v)"
    weights = f"float most = {{9}}, {matrix('w', 4, 4)}, {matrix('v', 4, 2)}"
    onnx.save(graph(body, weights=weights), tmp_path / "exp.onnx")
    adopt(tmp_path / "exp.onnx", tmp_path / "b")
    return Model(bundle.load(tmp_path / "b"))


def _asked(model: Model, clock: FakeClock, tensor: FloatArray = LARGE) -> Request:
    return request(model, clock, tensor, plan=stages((Tier.DEVICE, 0, 2), (Tier.EDGE, 2, 4)))


async def test_what_no_codec_can_carry_is_finished_by_the_tier_that_has_it(
    overflowing: Model, clock: FakeClock
) -> None:
    edge = Sending(runtime(overflowing, clock, tier=Tier.EDGE), clock)
    given = (await runtime(overflowing, clock, edge).infer(_asked(overflowing, clock))).predictions
    alone = (await runtime(overflowing, clock).infer(_asked(overflowing, clock))).predictions
    assert given.reasons.tolist() == [DegradedReason.UPSTREAM_ERROR]
    assert np.array_equal(given.scores, alone.scores)
    sent = (await runtime(overflowing, clock, edge).infer(_asked(overflowing, clock, LARGE / 1000))).predictions
    assert sent.tiers.tolist() == [Tier.EDGE]


async def test_where_the_rest_is_not_held_the_caller_is_told_what_could_not_be_carried(
    overflowing: Model, clock: FakeClock
) -> None:
    edge = Sending(runtime(overflowing, clock, tier=Tier.EDGE), clock)
    device = runtime(overflowing, clock, edge, holds=Segment(0, 2))
    with pytest.raises(NotCarried, match="not finite"):
        await device.infer(_asked(overflowing, clock))
