"""Three real servers, one request."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from device_agent.client import AsyncClient
from services import bundle
from services.domain import Tier
from tests.tiers import device, three_tiers, upper

pytestmark = pytest.mark.usefixtures("transport")

STAGES = ("queue", "decode", "compute", "encode", "network")


def _images(path: Path) -> np.ndarray:
    images, _ = bundle.load_samples(bundle.load(path))
    return images[..., None]


async def test_samples_of_one_batch_leave_at_different_tiers(tiny: Path) -> None:
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        answers = await client.infer("tiny", _images(tiny))
    assert {answer.tier for answer in answers} == set(Tier)
    assert not any(answer.degraded for answer in answers)


async def test_a_batch_gets_exactly_the_answers_of_single_requests(tiny: Path) -> None:
    images = np.concatenate([_images(tiny)] * 2)[:64]
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        together = await client.infer("tiny", images)
        alone = [(await client.infer("tiny", image[None]))[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        assert (a.label, a.exit_index, a.tier) == (b.label, b.exit_index, b.tier)
        assert np.array_equal(a.scores, b.scores)


async def test_the_trace_adds_up_to_the_time_the_caller_waited(tiny: Path) -> None:
    images = _images(tiny)
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        await client.infer("tiny", images)
        started = time.perf_counter()
        traces = [(await client.infer("tiny", images, trace=True))[0].trace for _ in range(20)]
        waited = time.perf_counter() - started
    assert all([hop["tier"] for hop in t["hops"]] == ["client", "device", "edge", "cloud"] for t in traces if t)
    stages = [hop[f"{stage}_seconds"] for t in traces if t for hop in t["hops"] for stage in STAGES]
    assert min(stages) >= 0
    assert 0.95 * waited <= sum(stages) <= waited


async def test_without_an_edge_the_device_answers_itself_and_says_so(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as gone:
        address = gone.address
    async with device(tiny, address) as front, AsyncClient(front.address) as client:
        answers = await client.infer("tiny", _images(tiny))
    assert {answer.tier for answer in answers} == {Tier.DEVICE}
    assert {a.degraded for a in answers if a.exit_index == 2} == {True}
    assert answers[0].degraded_reason == "upstream_unavailable"
