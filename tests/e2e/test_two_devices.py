"""Tiers keep nothing between requests: devices with different splits share an edge and do not notice."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from device_agent.client import AsyncClient, Prediction
from services import bundle, exits
from services.domain import FloatArray, Segment, Tier
from services.model import Model
from tests.networks import write_bundle
from tests.tiers import device, upper

pytestmark = pytest.mark.usefixtures("transport")

NEVER = (2.0, 2.0, 0.0)


@pytest.fixture(scope="module")
def stubborn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with exits that nobody takes, so that every sample goes all the way."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "stubborn", thresholds=NEVER)


def alone(path: Path, samples: FloatArray, splits: tuple[int, int]) -> FloatArray:
    """The scores of one process that runs the same segments, one sample after the other."""
    model = Model(bundle.load(path))
    edges, rows = [0, *splits, model.last], []
    for sample in samples:
        tensor, logits = sample[None], None
        for start, end in itertools.pairwise(edges):
            for piece in model.pieces(Segment(start, end)):
                tensor, logits = model.run(piece, tensor)
        assert logits is not None
        rows.append(exits.softmax(logits, model.manifest.exits[-1].temperature)[0])
    return np.stack(rows)


def numbers(count: int) -> FloatArray:
    return np.random.default_rng(5).uniform(-2, 2, (count, 1, 8, 8)).astype(np.float32)


async def one_by_one(client: AsyncClient, samples: FloatArray) -> list[Prediction]:
    return [(await client.infer("tiny", sample[None], "input"))[0] for sample in samples]


async def test_devices_with_different_splits_get_the_answers_of_one_process(stubborn: Path) -> None:
    samples, chosen = numbers(25), [(2, 4), (1, 6), (0, 3), (3, 3)]
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(upper(Tier.CLOUD, stubborn))
        edge = await stack.enter_async_context(upper(Tier.EDGE, stubborn, cloud.address))
        clients = []
        for first, second in chosen:
            settings = {"splits": f"{first},{second}", "codecs": "fp32,fp32+zstd"}
            front = await stack.enter_async_context(device(stubborn, edge.address, **settings))
            clients.append(await stack.enter_async_context(AsyncClient(front.address)))
        answers = await asyncio.gather(*(one_by_one(client, samples) for client in clients))
    for given, splits in zip(answers, chosen, strict=True):
        assert {answer.tier for answer in given} == {Tier.CLOUD}
        assert not any(answer.degraded for answer in given)
        assert np.array_equal(np.stack([answer.scores for answer in given]), alone(stubborn, samples, splits))


async def test_with_exits_taken_the_answers_do_not_depend_on_the_neighbour(tiny: Path) -> None:
    samples = numbers(40)
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(upper(Tier.CLOUD, tiny))
        edge = await stack.enter_async_context(upper(Tier.EDGE, tiny, cloud.address))
        clients = []
        for splits in ("2,4", "2,8"):
            front = await stack.enter_async_context(device(tiny, edge.address, splits=splits, codecs="fp32,fp32"))
            clients.append(await stack.enter_async_context(AsyncClient(front.address)))
        first, second = await asyncio.gather(*(one_by_one(client, samples) for client in clients))
    assert {answer.exit_index for answer in first} == {0, 1, 2}
    for a, b in zip(first, second, strict=True):
        assert (a.label, a.exit_index) == (b.label, b.exit_index)
        assert np.array_equal(a.scores, b.scores)
    assert {answer.tier for answer in second} == {Tier.DEVICE, Tier.EDGE}
