"""Three real servers, one request."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from device_agent.client import AsyncClient
from services import bundle
from services.domain import Tier
from tests.tiers import device, three_tiers, upper


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
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        answers = await client.infer("tiny", _images(tiny), trace=True)
    trace = answers[0].trace
    assert trace is not None
    assert [hop["tier"] for hop in trace["hops"]] == ["device", "edge", "cloud"]
    parts = ("queue", "decode", "compute", "encode", "network")
    assert sum(hop[f"{part}_seconds"] for hop in trace["hops"] for part in parts) == trace["seconds"]


async def test_without_an_edge_the_device_answers_itself_and_says_so(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as gone:
        address = gone.address
    async with device(tiny, address) as front, AsyncClient(front.address) as client:
        answers = await client.infer("tiny", _images(tiny))
    assert {answer.tier for answer in answers} == {Tier.DEVICE}
    assert {a.degraded for a in answers if a.exit_index == 2} == {True}
    assert answers[0].degraded_reason == "upstream_unavailable"
