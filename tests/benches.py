"""A workload of the policies' bench with costs that are known: each block takes 10 ms, codecs no time or some."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from device_agent.costs import Options
from device_agent.switching import SwitchRule
from services import bundle, codec, process, settings
from services.domain import CodecCost, Plan, Policy, Segment, SegmentTime, Tier
from services.model import Model
from services.settings import DeviceSettings
from testbed.bench import live
from testbed.bench.compare import Bench, staying
from testbed.bench.costs import CodecAt, Costs
from testbed.bench.journeys import Journeys
from testbed.bench.policies import Static
from testbed.bench.routes import Network, choices
from testbed.bench.virtual import Simulation
from testbed.bench.workloads import Workload
from testbed.bench.world import World
from testbed.traces import Rate
from tests.tiers import upper

_WORLD = World(call_seconds=0.001, agent_seconds=0.0)
_OPTIONS = Options(codecs=(("int8", "fp32"), ("int8", "fp32")), image_codecs=("pixels", "jpeg90"))
_CODECS = ("fp32", "int8", "int8+zstd", "pixels", "jpeg90")
BLOCK_SECONDS = 0.01


def _costs(workload: Workload, coding: float) -> Costs:
    """Each block takes 10 ms, coding `coding` seconds each way; codecs make what they make of the inputs, or zeros."""
    manifest = workload.bundle.manifest
    at, told = [], []
    for point in manifest.split_points[:-1]:
        tensors = np.zeros((1, *point.shape), np.float32) if point.index else workload.inputs()
        for name in _CODECS:
            if name in codec.usable(manifest, point.index):
                each = codec.at(name, point.index, manifest.input.preprocessing)
                size = float(np.mean([each.encode(row[None]).nbytes for row in tensors]))
                at.append(CodecAt(point.index, name, coding, coding, size))
                told.append(CodecCost(name, 0.0, 0.0, size / (4 * point.elements)))
    pieces = [Segment(a, b) for a in range(manifest.last) for b in range(a + 1, manifest.last + 1)]
    times = tuple(SegmentTime(each, 1, BLOCK_SECONDS * (each.end - each.start)) for each in pieces)
    return Costs(times, tuple(at), tuple({each.codec: each for each in reversed(told)}.values()))


def seconds_of(each: Bench, plan: Plan, rate: Rate, at: float = 0.0) -> float:
    """What one request by `plan` takes that begins at `at`."""
    simulation = Simulation(each.world, each.journeys, rate)
    return simulation.open(Static(plan), repeat(0), [at]).seconds[0]


def tiny_bench(path: Path, coding: float = 0.0) -> Bench:
    """The tiny network with exits that nobody takes, on random pictures. coding: seconds, each way."""
    loaded = bundle.load(path)
    never = tuple(spec.model_copy(update={"threshold": 2.0}) for spec in loaded.manifest.exits[:-1])
    manifest = loaded.manifest.model_copy(update={"exits": (*never, loaded.manifest.exits[-1])})
    loaded = replace(loaded, manifest=manifest)
    pictures = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
    workload = Workload("tiny", loaded, pictures, np.zeros(6, np.int64))
    costs = _costs(workload, coding)
    journeys = Journeys(workload, Model(loaded), costs, _WORLD.slowdowns)
    network = Network(manifest, staying(journeys))
    found = choices(network, costs, _WORLD, _OPTIONS, Policy())
    return Bench(workload, _WORLD, _OPTIONS, journeys, costs, found, SwitchRule())


@asynccontextmanager
async def bench_tiers(each: Bench, traces: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[live.Tiers]:
    """Edge and cloud in this process; the link is none, and so takes no other rate."""

    async def stays(*_: object) -> None:
        pass

    monkeypatch.setattr(live, "reshape", stays)
    path = each.workload.bundle.path
    asked = settings.read(DeviceSettings, ["--bundle", str(path), "--compute-slowdown", "8"])
    async with upper(Tier.CLOUD, path) as cloud, upper(Tier.EDGE, path, cloud.address) as edge:
        device = process.runtime(Tier.DEVICE, each.workload.bundle, asked)
        yield live.Tiers(SimpleNamespace(address=edge.address), device, asked, traces)  # type: ignore[arg-type]
        device.close()
