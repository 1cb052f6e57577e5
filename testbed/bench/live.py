"""The same policies on running tiers: edge and cloud as processes, links that follow the trace, the device in here.

The device's runtime and agent run in this process, so that every policy can hand its plan to the very code that
serves; edge, cloud and both links are processes of their own, with gRPC between them. Each policy in turn replays the
trace from its beginning and alone, since two on one link would meet a link that neither of them has: what one policy
gets, all get. Turns go round several times, each time from another policy on, so that a machine that slows down
meanwhile favours nobody.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from device_agent.agent import Agent
from device_agent.planning import Planning, probing
from device_agent.plans import Plans
from services import process, profile_cache, settings
from services.client import GrpcNextTier
from services.domain import NO_EXIT, Deadline, FloatArray, Plan, Segment, Tier
from services.errors import OfframpError
from services.front import Wishes
from services.patience import Lag, Patience
from services.preparing import Preparer
from services.profile import Measured
from services.profile_cache import ProfileCache
from services.settings import DeviceSettings
from services.tier import TierRuntime
from services.uplink import Uplink
from testbed.bench import booked, policies
from testbed.bench.booked import Book
from testbed.bench.compare import Bench, Outcome, Trial
from testbed.bench.policies import BEST_STATIC, ORACLES, OURS, DynamicSplit, Static
from testbed.bench.speeds import Speeds
from testbed.bench.statistics import Runs
from testbed.bench.virtual import Situation, drawn
from testbed.bench.world import Line, Loop
from testbed.local import Part, TestbedError, part
from testbed.traces import format_duration, format_rate, rate_lately

FAST = "1gbit"
NEVER = 2.0
PREPARE_SECONDS = 60.0
_CONTROL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Tiers:
    """What runs: the near link's process, and the device in here."""

    near: Part
    device: TierRuntime
    asked: DeviceSettings
    traces: Path


@asynccontextmanager
async def running(each: Bench, out: Path) -> AsyncIterator[Tiers]:
    """Edge, cloud and links as processes, one worker each, and the device's runtime, all on the costs of `each`."""
    world, traces, logs, profiles = each.world, out / "traces", out / "logs", out / "profiles"
    for folder in (traces, logs):
        folder.mkdir(parents=True, exist_ok=True)
    served = ("--bundle", str(each.workload.bundle.path), "--workers", "1", "--profile-cache", str(profiles))
    _keep_profile(each, profiles, settings.read(DeviceSettings, list(served)))
    async with AsyncExitStack() as stack:

        async def start(name: str, *arguments: str) -> Part:
            return await stack.enter_async_context(part(name, arguments, logs / f"{name}.jsonl"))

        async def link(name: str, target: str, rate: float, rtt: float) -> Part:
            shape = ("--rate", format_rate(rate), "--rtt", format_duration(rtt), "--traces", str(traces))
            doors = ("--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--target", target)
            return await start(name, "testbed.links", *doors, *shape)

        free = ("--listen", "127.0.0.1:0", "--metrics-listen", "-")
        cloud = await start("cloud-node", "cloud_node", *served, *free)
        far = await link("link-edge-cloud", cloud.address, world.far_rate, world.far_rtt_seconds)
        slower = ("--compute-slowdown", str(world.edge_slowdown), "--next", far.address)
        edge = await start("edge-node", "edge_node", *served, *free, *slower)
        near = await link("link-device-edge", edge.address, world.near_down, world.near_rtt_seconds)
        slowest = ("--compute-slowdown", str(world.device_slowdown), "--next", near.address)
        asked = settings.read(DeviceSettings, [*served, *slowest])
        process.tune_allocator()
        device = process.runtime(Tier.DEVICE, each.workload.bundle, asked)
        whole = Segment(0, each.workload.bundle.manifest.last)
        await asyncio.to_thread(process.get_ready, device, each.workload.bundle, asked, whole)
        yield Tiers(near, device, asked, traces)
        device.close()


def _keep_profile(each: Bench, profiles: Path, given: DeviceSettings) -> None:
    """What was measured for the simulation, as the tiers' own: both then run at the same pace, every time."""
    machine = profile_cache.this_machine(process.hardware(given))
    told = Measured(each.costs.segments, each.costs.profiled)
    ProfileCache(profiles).store(each.workload.bundle.manifest.model_hash, machine, told)


async def compare(
    each: Bench,
    tiers: Tiers,
    trial: Trial,
    file: Path,
    virtual: Outcome,
    rounds: int,
    speeds: Mapping[str, Speeds],
    on_step: Callable[[str], None],
    first: int = 0,
) -> Outcome:
    """All policies that ran in `virtual`, on the same trial. Best static and what to prepare are taken from there.

    speeds: of each policy, is told how fast the tiers ran for it. first: which of them begins, for another trial
    another one.
    """
    shutil.copyfile(file, tiers.traces / file.name)
    found = {name: Runs() for name in virtual.runs}
    names = list(found)
    for turn, again in enumerate(trial.turns(rounds)):
        start = (first + turn * len(names) // rounds) % len(names)
        for name in (*names[start:], *names[:start]):
            found[name].take(await _replay(each, tiers, again, file.name, name, virtual, speeds[name]))
            on_step(f"{trial.name} {name}")
    return Outcome(found, virtual.crosses, virtual.static)


async def _replay(
    each: Bench,
    tiers: Tiers,
    trial: Trial,
    trace: str,
    name: str,
    virtual: Outcome,
    speeds: Speeds,
) -> Runs:
    """One turn of one policy on one trial, with a connection and estimates of its own."""
    await reshape(tiers, FAST)
    book, uplink = way_up(each, tiers, trial, name)
    preparer = Preparer(tiers.device, uplink)
    planning = Planning(tiers.device, preparer, uplink, tiers.asked) if name == OURS else None
    probes = None
    try:
        for plan in _likely(each, name, virtual):
            await preparer.prepare(plan, Deadline.after(PREPARE_SECONDS))
        await reshape(tiers, f"trace:{trace}")
        book.begin()
        began = time.monotonic()
        if planning is not None:
            probes = probing(uplink, [planning])
            await planning.start()
        plans = planning.plans if planning is not None else _plans(each, tiers.device, book, name, virtual)
        await asyncio.sleep(max(0.0, trial.start - book.now()))
        inputs = each.workload.inputs()
        runs = await serve(each, Agent(tiers.device, plans), trial, inputs, name == "dsc", speeds, began)
        runs.extra_bytes = book.sent_bytes - sum(runs.bytes)
        return runs
    finally:
        if probes is not None:
            probes.cancel()
            await asyncio.gather(probes, return_exceptions=True)
        if planning is not None:
            await planning.stop()
        await uplink.close()


def way_up(each: Bench, tiers: Tiers, trial: Trial, name: str) -> tuple[Book, Uplink]:
    """A connection for one turn, and a device that does not remember how long others had to wait."""
    manifest, knowing = each.workload.bundle.manifest, name in ORACLES
    book = Book(Line(trial.rate, each.world.near_rtt_seconds / 2), each.world.header_bytes)
    uplink = booked.uplink(tiers.near.address, tiers.asked.max_message_bytes, book, knowing)
    tiers.device.next_tier = GrpcNextTier(uplink, len(manifest.labels), manifest.input.preprocessing)
    tiers.device.patience, tiers.device.lag = Patience(), Lag()
    tiers.device.profiler.forget_load()
    return book, uplink


def _likely(each: Bench, name: str, virtual: Outcome) -> list[Plan]:
    """What a policy may choose: an oracle anything, since real queues are not the simulated ones, others as there.

    Nothing of ours, which prepares by itself what it finds that it needs.
    """
    if name == OURS:
        return []
    plans = each.choices.plans if name in ORACLES else virtual.runs[name].plans
    return list({plan.stages: plan for plan in plans}.values())


def _plans(each: Bench, device: TierRuntime, book: Book, name: str, virtual: Outcome) -> Plans:
    """A policy that is not ours; what it must know of the moment, it is told."""
    manifest = each.workload.bundle.manifest
    static = policies.static_plans(manifest)
    if name == BEST_STATIC and virtual.static is not None:
        static[name] = virtual.static
    if name in static:
        return Static(static[name])
    if name in ORACLES:
        return policies.oracle(name, each.choices, situation(device, book))
    return DynamicSplit(manifest, each.costs, each.world, lambda: rate_lately(book.line.rate, book.now()))


def situation(device: TierRuntime, book: Book) -> Situation:
    """The device's queue as it reckons it itself; of the link, its trace and what this turn's requests put on it."""

    def device_free() -> float:
        return book.now() + device.backlog.ahead_seconds()

    return Situation(book.now, device_free, book.line, book.traffic.ahead_seconds)


async def serve(
    each: Bench, agent: Agent, trial: Trial, inputs: FloatArray, no_exits: bool, speeds: Speeds, began: float
) -> Runs:
    """Sends requests as the trial says and writes down what came of each; the trace began at `began`."""
    runs = Runs()
    exits = len(each.workload.bundle.manifest.exits)
    thresholds = (*[NEVER] * (exits - 1), 0.0) if no_exits else None
    samples, labels = drawn(len(each.workload.images), trial.seed), each.workload.labels

    async def one(at: float) -> None:
        sample, plan, alone = next(samples), None, not agent.runtime.backlog.runs
        right, exit_index, sent, failed = None, NO_EXIT, 0, True
        with suppress(OfframpError):
            deadline = Deadline.after(each.world.limit_seconds)
            answer = await agent.infer(inputs[sample : sample + 1], deadline, wishes=Wishes(thresholds))
            speeds.add(answer, time.monotonic() - began - at, alone)
            given, plan = answer.response.predictions, answer.plan
            sent = answer.response.trace.hops[0].bytes_up
            exit_index, failed = int(given.exits[0]), False  # a degraded answer is one
            right = None if labels is None else bool(given.labels[0] == labels[sample])
        seconds = time.monotonic() - began - at
        runs.add(at, seconds, plan or agent.plans.plan(agent.policy, 1), sent, right, exit_index, failed)

    if trial.loop is Loop.CLOSED:
        while (at := time.monotonic() - began) < trial.end:
            await one(at)
        return runs
    async with asyncio.TaskGroup() as tasks:
        await _at(trial.arrivals(each.per_second), began, lambda at: tasks.create_task(one(at)))
    return runs


async def _at(times: list[float], began: float, start: Callable[[float], object]) -> None:
    """Calls `start` at each of `times`, rising, seconds after `began`.

    The loop's own timers are up to a millisecond late, which short requests would be charged for; a thread's are not.
    """
    loop, ended = asyncio.get_running_loop(), threading.Event()

    def clockwork() -> None:
        for at in times:
            if ended.wait(max(0.0, at - (time.monotonic() - began))):
                return
            loop.call_soon_threadsafe(start, at)

    try:
        await asyncio.to_thread(clockwork)
    finally:
        ended.set()


async def reshape(tiers: Tiers, rate: str) -> None:
    """The near link's uplink at another rate; a trace starts at its beginning."""
    await asyncio.to_thread(_put, tiers.near.announced["control"], {"up": {"rate": rate}})


def _put(control: str, change: dict[str, dict[str, str]]) -> None:
    connection = http.client.HTTPConnection(control, timeout=_CONTROL_SECONDS)
    try:
        connection.request("PUT", "/link", json.dumps(change), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise TestbedError(f"the link refused {change}: {answer.read(500).decode(errors='replace')}")
    finally:
        connection.close()
