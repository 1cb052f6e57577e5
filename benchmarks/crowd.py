"""A thousand devices, each holding a stream to one edge, each asking once in ten seconds: how long they wait.

Against ten devices that do the same. Those are too few to show a p99 in little time, so several edges have ten each,
and their requests are taken together. Each device has a connection of its own, and all of them live in this process.
Memory is what the edge has grown by when every device has its stream.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np

from benchmarks import subjects
from benchmarks.hop import node
from benchmarks.memory import resident_mb
from benchmarks.subjects import Subject
from benchmarks.targets import Row, ratios, row
from services.channels import DEFAULT_MAX_MESSAGE_BYTES
from services.client import GrpcNextTier
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.uplink import Uplink
from testbed.local import Part

DEVICES, FEW, GROUPS = 1000, 10, 10
EVERY_SECONDS = 10.0
P99, KILOBYTES = 2.0, 60.0
_AT_ONCE = 20
"""Devices that connect side by side."""
_DESCRIPTORS = 8192


async def rows(folder: Path, periods: int, devices: int = DEVICES) -> list[Row]:
    """periods: how often each device asks while it is measured."""
    _allow_descriptors()
    subject = subjects.write(folder, ("tiny",))["tiny"]
    async with AsyncExitStack() as stack:
        edges = [await stack.enter_async_context(node("edge", subject.path)) for _ in range(GROUPS)]
        few, _ = await _measured(subject, edges, FEW, periods)
    async with node("edge", subject.path) as edge:
        await _measured(subject, [edge], 1, 0)
        many, grown_mb = await _measured(subject, [edge], devices, periods)
    what = f"{devices:,} devices on one edge, one request each in {EVERY_SECONDS:g} s"
    note = f"p50 {1e3 * float(np.median(many)):.1f} ms against {1e3 * float(np.median(few)):.1f} ms"
    p99s = (list(np.percentile(found, 99, axis=1)) for found in (many, few))
    return [
        row(f"{what}: p99 over that of {FEW}", "at most", P99, ratios(*p99s), note=note),
        row(f"{what}: memory of the edge for each", "at most", KILOBYTES, [1e3 * grown_mb / devices], "KB"),
    ]


async def _measured(
    subject: Subject, edges: Sequence[Part], devices: int, periods: int
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], float]:
    """Seconds of each request, [periods, requests], and megabytes that the first edge has grown by."""
    before = resident_mb(edges[0].process.pid)
    request, classes = _request(subject), len(subject.manifest.labels)
    # Channels of the same options to the same place would share a connection.
    uplinks = [
        Uplink(Tier.DEVICE, edge.address, DEFAULT_MAX_MESSAGE_BYTES + number)
        for edge in edges
        for number in range(devices)
    ]
    try:
        joined = [GrpcNextTier(uplink, classes) for uplink in uplinks]
        gate = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(_join(each, request, gate) for each in joined))
        grown = resident_mb(edges[0].process.pid) - before
        offsets = np.random.default_rng(0).uniform(0, EVERY_SECONDS, len(joined))
        start = time.monotonic()
        waits = await asyncio.gather(
            *(_ask(each, request, start + float(at), periods) for each, at in zip(joined, offsets, strict=True))
        )
    finally:
        await asyncio.gather(*(uplink.close() for uplink in uplinks))
    return np.array(waits, np.float64).T, grown


async def _join(above: GrpcNextTier, request: Request, gate: asyncio.Semaphore) -> None:
    """The first request connects, the second opens the stream."""
    async with gate:
        for _ in range(2):
            await above.infer(request, "fp32")


async def _ask(above: GrpcNextTier, request: Request, start: float, periods: int) -> list[float]:
    """Seconds of each request, one in each period from `start` on, in monotonic time."""
    found = []
    for number in range(periods):
        await asyncio.sleep(start + number * EVERY_SECONDS - time.monotonic())
        began = time.perf_counter()
        await above.infer(request, "fp32")
        found.append(time.perf_counter() - began)
    return found


def _request(subject: Subject) -> Request:
    plan = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, subject.manifest.last))))
    return Request("bench", subject.manifest.model_hash, plan, 0, subject.sample, Deadline.after(3600))


def _allow_descriptors() -> None:
    """Two for each device, in this process and in the edge, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_DESCRIPTORS, hard), hard))
