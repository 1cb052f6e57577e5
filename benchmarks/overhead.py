"""What a device agent adds to each request: planning, bookkeeping, the trace, metrics and the log line.

The agent is put together as the device's process does, holds the network up to its first exit, and stands in front of
a stub of the tier above that answers at once and tells its beliefs, so that plans are reconsidered as often as they are
in earnest. The network's runs are remembered outputs. What is counted is the processor time of the event loop's thread,
what is done after an answer has left included: other processes on the machine do not add to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from benchmarks.subjects import Subject
from benchmarks.targets import Row, row
from device_agent.agents import Agents
from device_agent.plans import Plans
from device_agent.replan import Replanner
from services import log, process, settings
from services.domain import Deadline, FloatArray, LinkEstimate, Request, Segment, SegmentTime, Tier, TierProfile
from services.journey import Forwarded
from services.model import SegmentOutput
from services.observing import Finished
from services.response import HopTrace, Predictions, Response, Trace
from services.serving import Served
from services.settings import DeviceSettings
from services.telemetry import Telemetry

BUNDLE = Path("models/digits")
MICROSECONDS = 150.0
_SLOWER = {Tier.DEVICE: 400.0, Tier.EDGE: 2.0, Tier.CLOUD: 1.0}
_LINKS = (LinkEstimate(Tier.DEVICE, 0.004, 12.5e6, 0.001, 0.1), LinkEstimate(Tier.EDGE, 0.004, 25e6, 0.001, 0.1))


class Stub:
    """The tiers above: they answer at once, at the last exit, and tell how they are."""

    def __init__(self, profiles: tuple[TierProfile, ...], classes: int, last_exit: int):
        self._profiles, self._classes, self._last_exit = profiles, classes, last_exit

    async def infer(self, request: Request, codec: str) -> Forwarded:
        answers = Predictions.empty(len(request.activation), self._classes)
        answers.exits[:], answers.tiers[:] = self._last_exit, int(Tier.CLOUD)
        trace = Trace((HopTrace(Tier.EDGE), HopTrace(Tier.CLOUD)))
        return Forwarded(Response(answers, trace, self._profiles, _LINKS[1:]), 0.0, 1000, 400, codec)

    def link(self) -> LinkEstimate:
        return _LINKS[0]


async def rows(folder: Path, rounds: int, requests: int, path: Path = BUNDLE) -> list[Row]:
    """Rounds of so many requests, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    first = Subject.at(path).manifest.exits[0].split_point
    kept = ("--holds", f"0:{first}", "--privacy", "true", "--profile-cache", str(folder / "profiles"))
    quiet = ("--metrics-listen", "-", "--console-listen", "-")
    given = settings.read(DeviceSettings, ["--bundle", str(path), *kept, *quiet])
    telemetry = Telemetry(Tier.DEVICE, given)
    models = process.models(Tier.DEVICE, given, None)
    agents = Agents(models, None, given, telemetry.metrics.live)
    try:
        with (folder / "device.log").open("w") as file, _logging_to(file):
            await asyncio.to_thread(process.warm, models, given)
            await agents.start()
            _join(models.first, agents.first.plans)
            found = [await _round(models.first, telemetry, requests) for _ in range(rounds + 1)][1:]
            note = f"plan {agents.first.plan()}; means of {requests:,} requests, one after the other"
    finally:
        await agents.stop()
        await process.close(models, None)
    return [row("agent's own overhead for a request", "at most", MICROSECONDS, found, "µs", note)]


async def _round(served: Served, telemetry: Telemetry, requests: int) -> float:
    """Microseconds of processor time for each request."""
    sample = Subject.at(served.bundle.path).sample
    started = time.thread_time()
    for _ in range(requests):
        answer = await served.front.infer(sample, Deadline.after(10))
        telemetry.observers.answered(
            Finished(answer.request_id, Tier.DEVICE, served.manifest, answer.plan, answer.response, time.time_ns())
        )
        await asyncio.sleep(0)  # for what waits until the event loop is free
    telemetry.observers.tell()
    return 1e6 * (time.thread_time() - started) / requests


def _join(served: Served, plans: Plans) -> None:
    """Puts the stub above, and has the planner believe in slower tiers below faster ones."""
    assert isinstance(plans, Replanner)
    own = served.runtime.profiler.full_profile()
    profiles = tuple(_slower(own, tier) for tier in Tier)
    setattr(served.runtime.model, "run", _remembering(served.runtime.model.run))  # noqa: B010
    served.runtime.next_tier = Stub(profiles[1:], len(served.manifest.labels), len(served.manifest.exits) - 1)
    plans.believe(profiles, _LINKS)
    plans.reconsider()


@contextmanager
def _logging_to(file: TextIO) -> Iterator[None]:
    """Log lines as a device writes them, to `file` in place of standard error."""
    with redirect_stderr(file):
        log.configure(Tier.DEVICE.label, "info")
    try:
        yield
    finally:
        logging.getLogger("offramp").handlers.clear()


def _remembering(run: Callable[[Segment, FloatArray], SegmentOutput]) -> Callable[[Segment, FloatArray], SegmentOutput]:
    """`run`, which really runs each piece once for each number of samples."""
    known: dict[tuple[Segment, int], SegmentOutput] = {}

    def remembered(piece: Segment, tensor: FloatArray) -> SegmentOutput:
        key = piece, len(tensor)
        if key not in known:
            known[key] = run(piece, tensor)
        return known[key]

    return remembered


def _slower(profile: TierProfile, tier: Tier) -> TierProfile:
    times = tuple(SegmentTime(t.segment, t.batch_size, t.seconds * _SLOWER[tier]) for t in profile.segments)
    return replace(profile, tier=tier, segments=times)
