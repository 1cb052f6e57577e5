"""Small messages that decode to much: no more is decoded than there is memory for, whichever way they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from device_agent.client import AsyncClient
from services import bundle, codec, image_codec, wire
from services.batcher import Batcher
from services.decoded import Holding
from services.domain import Plan, Segment, Stage, Tier
from services.pb.offramp.v1 import tier_pb2 as pb
from tests.calls import DOOR, TIER, Call, asking, calling, reason
from tests.tiers import device, upper

BY = "int8+zstd"
HERE = Plan((Stage(Tier.DEVICE, Segment(0, 2)), Stage(Tier.EDGE, Segment(2, 8), BY)))
BEYOND = Plan((*HERE.stages[:1], Stage(Tier.EDGE, Segment(2, 2), BY), Stage(Tier.CLOUD, Segment(2, 8), BY)))
SMALL = {"memory_bytes": 64 << 20, "max_batch": 20_000}
"""An eighth of it, 8 MiB, is for what is decoded."""
MOST, MORE = 5000, 9000
"""Samples of a kilobyte: two times as many do not fit, and these not even alone."""

RELAYED, IMAGES = Segment(0, 8), 3


def zeros(tiny: Path, count: int, plan: Plan = HERE) -> pb.InferRequest:
    """A few kilobytes."""
    payload = codec.get(BY).encode(np.zeros((count, 4, 8, 8), np.float32))
    activation = wire.payload_to_pb(payload)
    activation.payload = bytes(payload.data)
    assert activation.ByteSize() < 1 << 14
    header = {"request_id": "r", "model_hash": bundle.load(tiny).manifest.model_hash, "at": 2}
    return pb.InferRequest(plan=wire.plan_to_pb(plan), activation=activation, **header)


def images(tiny: Path, by: str, damaged: bool = False) -> pb.InferRequest:
    """To be run by the cloud, all of it; damaged: what is not even a file, or not as long as it should be."""
    manifest = bundle.load(tiny).manifest
    encoded = codec.at(by, 0, manifest.input.preprocessing).encode(np.zeros((IMAGES, 1, 8, 8), np.float32))
    data = bytes(len(encoded.data) - (by == "pixels")) if damaged else bytes(encoded.data)
    payload = replace(encoded, data=data, crc32c=codec.checksum(encoded.parameters, data))
    activation = wire.payload_to_pb(payload)
    activation.payload = data
    stages = (Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 0), by), Stage(Tier.CLOUD, RELAYED, by))
    header = {"request_id": "r", "model_hash": manifest.model_hash, "at": 0}
    return pb.InferRequest(plan=wire.plan_to_pb(Plan(stages)), activation=activation, **header)


class Runs:
    """Runs that wait until they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here, self.free = asyncio.Semaphore(0), asyncio.Event()
        run = Batcher.run

        async def waiting(batcher: Batcher, *given: Any) -> Any:
            self.here.release()
            await self.free.wait()
            return await run(batcher, *given)

        monkeypatch.setattr(Batcher, "run", waiting)

    @asynccontextmanager
    async def busy(self, call: Call, path: str, *asked: Any) -> AsyncIterator[list[asyncio.Task[Any]]]:
        """While all of `asked` have been decoded and are about to run; they are answered after it."""
        tasks = [asyncio.create_task(call(path, each)) for each in asked]
        for _ in tasks:
            await asyncio.wait_for(self.here.acquire(), 20)
        yield tasks
        self.free.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def refusal(call: Call, path: str, request: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(path, request)
    return reason(error.value)


@pytest.mark.parametrize("exchange", [False, True], ids=["Infer", "Exchange"])
async def test_more_than_there_is_memory_for_is_not_decoded_at_once(
    tiny: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, path = Runs(monkeypatch), f"{TIER}/Infer"
    async with upper(Tier.EDGE, tiny, **SMALL) as edge, calling(edge.address, exchange) as call:
        async with runs.busy(call, path, zeros(tiny, MOST)) as (first,):
            assert await refusal(call, path, zeros(tiny, MOST)) == "QUEUE_FULL"
            assert await refusal(call, path, zeros(tiny, MORE)) == "QUEUE_FULL"
            assert edge.limiter.rejected["QUEUE_FULL"] == 2
        assert len(first.result().predictions.exits) == MOST
        assert len((await call(path, zeros(tiny, MOST))).predictions.exits) == MOST
        assert edge.limiter.in_flight == 0


@pytest.mark.parametrize("exchange", [False, True], ids=["Infer", "Exchange"])
async def test_a_caller_that_leaves_gives_back_the_memory_for_what_it_had_decoded(
    tiny: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, path = Runs(monkeypatch), f"{TIER}/Infer"
    async with upper(Tier.EDGE, tiny, **SMALL) as edge, calling(edge.address, exchange) as call:
        async with runs.busy(call, path, zeros(tiny, MOST)) as (first,):
            first.cancel()
            async with asyncio.timeout(20):
                while edge.limiter.in_flight:
                    await asyncio.sleep(0.01)
            again = asyncio.create_task(call(path, zeros(tiny, MOST)))
            await asyncio.wait_for(runs.here.acquire(), 20)
        assert len((await again).predictions.exits) == MOST


async def test_what_passes_on_takes_no_memory_where_it_passes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, path = Runs(monkeypatch), f"{TIER}/Infer"
    async with (
        upper(Tier.CLOUD, tiny, **SMALL) as cloud,
        upper(Tier.EDGE, tiny, cloud.address, **SMALL) as edge,
        calling(edge.address) as call,
        runs.busy(call, path, zeros(tiny, MOST), zeros(tiny, MOST, BEYOND)) as tasks,
    ):
        assert await refusal(call, path, zeros(tiny, MORE, BEYOND)) == "QUEUE_FULL"
        runs.free.set()
        here, beyond = await asyncio.gather(*tasks)
    assert set(here.predictions.tiers) == {pb.TIER_NAME_EDGE}
    assert set(beyond.predictions.tiers) == {pb.TIER_NAME_CLOUD}


@pytest.mark.parametrize("by", codec.IMAGE)
async def test_images_that_pass_on_are_decoded_only_where_they_are_run(
    tiny: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, decoded = list[int](), list[str]()
    take, decode = Holding.take, image_codec.ImageCoding.decode
    monkeypatch.setattr(Holding, "take", lambda room, size: (taken.append(size), take(room, size)))
    monkeypatch.setattr(image_codec.ImageCoding, "decode", lambda *given: (decoded.append(by), decode(*given))[1])
    async with (
        upper(Tier.CLOUD, tiny) as cloud,
        upper(Tier.EDGE, tiny, cloud.address) as edge,
        calling(edge.address) as call,
    ):
        answer = await call(f"{TIER}/Infer", images(tiny, by))
        assert set(answer.predictions.tiers) == {pb.TIER_NAME_CLOUD}
        assert (taken, decoded) == ([IMAGES * 256], [by])
        assert await refusal(call, f"{TIER}/Infer", images(tiny, by, damaged=True)) == "CORRUPT_PAYLOAD"
    assert (taken, decoded) == ([IMAGES * 256], [by])


async def test_what_cannot_pass_on_takes_memory_before_it_is_decoded(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, path = Runs(monkeypatch), f"{TIER}/Infer"
    async with (
        upper(Tier.EDGE, tiny, "127.0.0.1:1", **SMALL) as edge,
        calling(edge.address) as call,
        runs.busy(call, path, zeros(tiny, MOST)),
    ):
        assert await refusal(call, path, zeros(tiny, MOST, BEYOND)) == "QUEUE_FULL"


async def test_pixels_at_the_public_door_count_as_the_floats_they_become(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, path, pixels = Runs(monkeypatch), f"{DOOR}/ModelInfer", np.zeros((15_000, 8, 8, 1), np.uint8)
    async with upper(Tier.EDGE, tiny, **SMALL) as edge, calling(edge.address) as call:
        async with runs.busy(call, path, asking(pixels), asking(pixels)):
            assert await refusal(call, path, asking(pixels)) == "QUEUE_FULL"
        await call(path, asking(pixels))


async def test_what_a_tier_above_has_no_memory_for_is_answered_below(tiny: Path) -> None:
    pixels = np.zeros((MORE, 8, 8, 1), np.uint8)
    async with (
        upper(Tier.EDGE, tiny, **SMALL) as edge,
        device(tiny, edge.address, splits="2,8", max_batch=20_000) as front,
        AsyncClient(front.address) as client,
    ):
        answers = await client.infer("tiny", pixels, exit_threshold=2.0)
    assert {(answer.tier, answer.degraded_reason) for answer in answers} == {(Tier.DEVICE, "upstream_overloaded")}
    assert edge.limiter.rejected["QUEUE_FULL"] == 1  # it is not sent again in vain
