"""Three tiers, against the same network in one piece, and over emulated links against the time that nobody can save.

The device runs in this process, the edge and the cloud in processes of their own. The floor over links is the runs
themselves, two delays for each link, and the activation's and the answer's bytes at the link's rate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bare, subjects
from benchmarks.hop import node
from benchmarks.links import reshape
from benchmarks.subjects import Subject
from benchmarks.targets import Row, row, spread
from services import process, settings
from services.domain import Deadline, Plan, Request, Tier
from services.fixed import fixed_plan
from services.response import Response
from services.settings import TierSettings
from services.tier import TierRuntime
from testbed.local import Part, part

FUSED, LINKED = 1.25, 1.05
CUTS = (19, 36)
"""After the first MBConv block of the third stage, and after the last of the fifth: thirds of the time, about."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A link: megabits per second, and milliseconds there and back."""

    mbit: float
    rtt_ms: float

    def seconds(self, nbytes: int) -> float:
        """What the link alone takes for a request and its answer of so many bytes together."""
        return self.rtt_ms / 1e3 + nbytes * 8 / (self.mbit * 1e6)


LINKS = ((Shape(20, 10), Shape(50, 40)), (Shape(50, 20), Shape(100, 20)), (Shape(50, 50), Shape(200, 20)))


async def rows(folder: Path, rounds: int, runs: int) -> list[Row]:
    """Rounds of so many requests, in turn with as many runs in one piece; then as many over each pair of links."""
    subject = subjects.write(folder, ("efficientnet_b0",))["efficientnet_b0"]
    return [await _fused(subject, rounds, runs), await _linked(subject, 4 * runs)]


async def _fused(subject: Subject, rounds: int, runs: int) -> Row:
    session = bare.session(subject.plain)
    given, sample = session.get_inputs()[0].name, subject.sample
    found = []
    async with _tiers(subject, False) as (device, _):
        for number in range(rounds + 1):
            whole = [_timed(lambda: session.run(None, {given: sample})) for _ in range(runs)]
            travelled = [seconds for seconds, _ in [await _ask(device, subject, "fp32") for _ in range(runs)]]
            if number:
                found.append(spread(travelled)[1] / spread(whole)[1])
    what = "three tiers, EfficientNet-B0 cut in three, loopback, over one piece"
    return row(what, "at most", FUSED, found, note="float32 activations; device in the measuring process")


async def _linked(subject: Subject, runs: int) -> Row:
    """The worst of the pairs of links."""
    found = []
    async with _tiers(subject, True) as (device, links):
        for shapes in LINKS:
            for link, shape in zip(links, shapes, strict=True):
                await asyncio.to_thread(reshape, link.announced["control"], shape.mbit, shape.rtt_ms)
            asked = [await _ask(device, subject, "int8+zstd") for _ in range(runs)][runs // 4 :]
            found.append([seconds / _floor(response, shapes) for seconds, response in asked])
    worst = max(found, key=lambda values: spread(values)[1])
    what = "end to end over emulated links, over runs + delays + bytes at the link's rate"
    return row(what, "at most", LINKED, worst, note=f"the worst of {len(LINKS)} pairs of links; int8+zstd")


def _floor(response: Response, shapes: Sequence[Shape]) -> float:
    hops = response.trace.hops
    wires = (shape.seconds(hop.bytes_up + hop.bytes_down) for hop, shape in zip(hops, shapes, strict=False))
    return sum(hop.compute_seconds for hop in hops) + sum(wires)


async def _ask(device: TierRuntime, subject: Subject, codec: str) -> tuple[float, Response]:
    """Seconds, and the answer. Raises what the tiers raise."""
    plan = fixed_plan(subject.manifest, CUTS, (codec, codec))
    request = _request(subject, plan)
    started = time.perf_counter()
    response = await device.infer(request)
    return time.perf_counter() - started, response


def _request(subject: Subject, plan: Plan) -> Request:
    return Request("bench", subject.manifest.model_hash, plan, 0, subject.sample, Deadline.after(60))


@asynccontextmanager
async def _tiers(subject: Subject, linked: bool) -> AsyncIterator[tuple[TierRuntime, tuple[Part, ...]]]:
    """The device, joined to the others directly or by two links."""
    async with AsyncExitStack() as stack:
        links: list[Part] = []

        async def target(of: Part) -> str:
            if not linked:
                return of.address
            listen = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--target", of.address)
            arguments = ("testbed.links", *listen, "--rate", "50mbit", "--rtt", "20ms")
            links.insert(
                0, await stack.enter_async_context(part("link", arguments, _log(subject, f"link-{len(links)}")))
            )
            return links[0].address

        cloud = await stack.enter_async_context(node("cloud", subject.path))
        edge = await stack.enter_async_context(node("edge", subject.path, "--next", await target(cloud)))
        arguments = ["--bundle", str(subject.path), "--next", await target(edge), "--profile-seconds", "0"]
        given = settings.read(TierSettings, arguments)
        uplink = process.uplink(Tier.DEVICE, given)
        models = process.models(Tier.DEVICE, given, uplink)
        stack.push_async_callback(process.close, models, uplink)
        yield models.first.runtime, tuple(links)


def _log(subject: Subject, name: str) -> Path:
    return subject.path / f"{name}.log"


def _timed(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started
