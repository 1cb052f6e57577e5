"""A chaos run from beginning to end: a world, traffic, faults, and then what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.live import Live

from device_agent.client import AsyncClient
from services import bundle
from services.errors import InvalidInput
from services.model import Model
from testbed.chaos import census, invariants, processes, report, timeline
from testbed.chaos.faults import Faults
from testbed.chaos.history import History, Usage
from testbed.chaos.pool import Pool
from testbed.chaos.progress import Progress
from testbed.chaos.replay import Replay
from testbed.chaos.schedule import Fault, schedule
from testbed.chaos.stalls import Bystander
from testbed.chaos.traffic import Mix, Traffic
from testbed.chaos.world import Start
from testbed.local import TestbedError, TestbedSettings

CLIENTS = 3
WARM_SECONDS = 3.0
_SETTLE_SECONDS = 1.0
_IDLE_WITHIN_SECONDS = 15.0


Settled = Callable[[Mapping[str, Usage]], bool]
Look = Callable[[], Awaitable[dict[str, Usage]]]


def at_rest(found: Mapping[str, Usage]) -> bool:
    """Whether nothing is in flight or waits anywhere."""
    return not any(each.in_flight or each.queued for each in found.values())


@dataclass(frozen=True, slots=True)
class Asked:
    """A run as asked for. start: what it is done to."""

    testbed: TestbedSettings
    minutes: float
    seed: int
    callers: int
    out: Path
    start: Start = processes.running

    @property
    def seconds(self) -> float:
        return 60 * self.minutes


async def run(asked: Asked, images: npt.NDArray[np.uint8], console: Console) -> report.Json:
    """Drives a testbed with inputs drawn from `images`, uint8 [N, H, W, C], and writes `timeline.png` into `out`.

    Raises TestbedError where the testbed does not come up, InvalidInput where there is no time for a fault.
    """
    faults = schedule(asked.seed, asked.seconds)
    if not faults:
        raise InvalidInput(f"{asked.minutes:g} minutes leave no time for a fault and its recovery; give --minutes 0.5")
    model = Model(bundle.load(asked.testbed.bundle))
    pool = await asyncio.to_thread(Pool.of, images, model, asked.seed)
    mix = Mix(pool, model.manifest)
    history = await _history(asked, mix, faults, console)
    console.print("running every answer again, in one process …")
    return await asyncio.to_thread(_concluded, history, Replay(model, pool.tensors), asked.out)


def _concluded(history: History, replay: Replay, out: Path) -> report.Json:
    found = report.as_json(history, invariants.verdicts(history, replay))
    timeline.timeline_figure(history, f"Chaos, seed {history.seed}: {report.sentence(found)}", out / "timeline.png")
    return found


async def _history(asked: Asked, mix: Mix, faults: Sequence[Fault], console: Console) -> History:
    progress = Progress(asked.seconds)
    for old in asked.testbed.logs.glob("*.jsonl"):
        old.unlink()
    async with asked.start(asked.testbed) as world, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(world.door)) for _ in range(CLIENTS)]
        await _warmed(mix, clients, asked)
        before, counted = await idle(world.usage), await world.counters()
        progress.began = time.monotonic()
        traffic = Traffic(mix, clients, asked.seed, progress.began, progress.ended)
        nemesis = Faults(world, asked.testbed, progress.began, progress.fault)
        bystander = Bystander(progress.began)
        with bystander.watching(), Live(progress, console=console, refresh_per_second=4, transient=True):
            await _driven(traffic, nemesis, faults, asked)
        after = await idle(world.usage)
        counters = census.difference(await world.counters(), counted)
        died = await world.gone()
    return History(
        asked.seed,
        asked.minutes,
        asked.testbed.transports,
        tuple(traffic.records),
        tuple(nemesis.events),
        counters,
        before,
        after,
        died,
        census.faults(asked.testbed.logs),
        tuple(bystander.stalls),
    )


async def _warmed(mix: Mix, clients: list[AsyncClient], asked: Asked) -> None:
    """The same traffic for a while, so that pools, sessions and caches have the size that they then keep."""
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(WARM_SECONDS, stop.set)
    await Traffic(mix, clients, asked.seed + 1, time.monotonic()).run(asked.callers, stop)


async def _driven(traffic: Traffic, nemesis: Faults, faults: Sequence[Fault], asked: Asked) -> None:
    """Traffic for as long as was asked for, and until every fault is undone and recovery could be seen."""
    stop = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(traffic.run(asked.callers, stop))
            try:
                await asyncio.gather(nemesis.run(faults), asyncio.sleep(asked.seconds))
            finally:
                stop.set()
    except* TestbedError as failed:
        raise failed.exceptions[0] from None


async def idle(look: Look, settled: Settled = at_rest) -> dict[str, Usage]:
    """What the parts hold when they have settled, or after some time although they have not.

    Raises TestbedError for one that does not say what it holds.
    """
    until = time.monotonic() + _IDLE_WITHIN_SECONDS
    while True:
        await asyncio.sleep(_SETTLE_SECONDS)
        try:
            found = await look()
        except (OSError, TestbedError) as error:
            if time.monotonic() > until:
                raise TestbedError(f"a part of the testbed does not say what it holds: {error}") from None
            continue
        if time.monotonic() > until or settled(found):
            return found
