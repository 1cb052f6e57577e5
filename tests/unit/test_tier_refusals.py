"""What a tier does not take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services import bundle
from services.domain import (
    Plan,
    Segment,
    Tier,
)
from services.errors import (
    InvalidInput,
    ModelMismatch,
    NotHeld,
)
from services.model import Model
from tests.fakes import FakeClock
from tests.journeys import (
    C,
    D,
    E,
    plan,
    request,
    runtime,
    stages,
)


async def test_a_part_that_is_not_held_is_refused(model: Model, clock: FakeClock) -> None:
    edge = runtime(model, clock, tier=Tier.EDGE, holds=Segment(2, 4))
    inside = request(model, clock, model.zeros(2, 1), at=2)
    await edge.infer(inside)
    with pytest.raises(NotHeld, match="holds 2:4, the plan gives it 2:5"):
        await edge.infer(replace(inside, plan=plan(2, 5)))


async def test_warming_leaves_out_what_is_not_held(tiny: Path, clock: FakeClock) -> None:
    model = Model(bundle.load(tiny))
    runtime(model, clock, holds=Segment(0, 4)).warm(Segment(0, 8))
    assert model.resident(Segment(2, 4))
    assert not model.resident(Segment(4, 8))


async def test_another_model_is_refused_with_both_hashes(model: Model, clock: FakeClock) -> None:
    with pytest.raises(ModelMismatch) as refused:
        await runtime(model, clock).infer(request(model, clock, model_hash="f" * 64))
    assert "f" * 64 in str(refused.value)
    assert model.manifest.model_hash in str(refused.value)


@pytest.mark.parametrize(
    ("chosen", "complaint"),
    [
        (stages((D, 0, 2), (E, 3, 4), (C, 4, 8)), "does not join up"),
        (stages((D, 1, 2), (E, 2, 4), (C, 4, 8)), "does not join up"),
        (stages((D, 0, 2), (E, 2, 1), (C, 1, 8)), "does not join up"),
        (stages((D, 0, 4), (E, 2, 8)), "does not join up"),
        (stages((D, 0, 2), (E, 2, 4)), "ends at split point 4"),
        (stages((D, 0, 2), (E, 2, 4), (C, 4, 9)), "ends at split point 9"),
        (stages(), "ends at split point 0"),
        (stages((E, 0, 2), (D, 2, 4), (C, 4, 8)), "out of order"),
        (stages((D, 0, 2), (D, 2, 4), (C, 4, 8)), "out of order"),
        (stages((E, 0, 4), (C, 4, 8)), "no part for the device"),
    ],
)
async def test_a_plan_that_cannot_be_followed_is_refused(
    model: Model, clock: FakeClock, chosen: Plan, complaint: str
) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        await runtime(model, clock).infer(request(model, clock, plan=chosen))


async def test_an_activation_from_another_split_point_than_planned_is_refused(model: Model, clock: FakeClock) -> None:
    with pytest.raises(InvalidInput, match="does not give split point 3 to the edge"):
        await runtime(model, clock, tier=Tier.EDGE).infer(request(model, clock, model.zeros(3, 1), at=3))


async def test_a_request_with_nothing_left_to_run_is_refused(model: Model, clock: FakeClock) -> None:
    done = request(model, clock, model.zeros(8, 1), at=8, plan=plan(8, 8))
    with pytest.raises(InvalidInput, match="nothing is left to run"):
        await runtime(model, clock, tier=Tier.EDGE).infer(done)


@pytest.mark.parametrize("shape", [(1, 8, 9), (1, 8), (8, 8)])
async def test_an_activation_of_another_shape_is_refused(
    model: Model, clock: FakeClock, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidInput, match=r"carries \[N, 1, 8, 8\]"):
        await runtime(model, clock).infer(request(model, clock, np.zeros((2, *shape), np.float32)))


@pytest.mark.parametrize("thresholds", [(), (0.5,), (0.5, 0.5), (0.5,) * 4])
async def test_thresholds_for_another_number_of_exits_are_refused(
    model: Model, clock: FakeClock, thresholds: tuple[float, ...]
) -> None:
    with pytest.raises(InvalidInput, match="the model has 3 exits"):
        await runtime(model, clock).infer(request(model, clock, thresholds=thresholds))
