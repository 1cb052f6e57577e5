"""Mixed traffic for a long time, some of it rude: does memory grow, and is everything given back?

Three tiers and two links as processes. First many requests at speed, since bounded tables and caches take so many to
fill. Then, beside ordinary requests, one client in a hundred hangs up before its answer, others vanish in the middle of
a call, or leave a stream half open. Resident memory is sampled all the time; its drift comes with a confidence
interval. In the end descriptors, threads, tasks and requests in flight must be what they were before. Then thousands of
idle connections are opened, beside which requests must still be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import idle_connections, memory
from benchmarks.growth import drift
from benchmarks.rude import Rude
from device_agent.client import AsyncClient
from services import bundle
from services.model import Model
from testbed import local
from testbed.chaos import census
from testbed.chaos.history import Ending, Record, Usage
from testbed.chaos.invariants import DESCRIPTOR_SLACK, THREAD_SLACK, covered, is_excused
from testbed.chaos.pool import Pool
from testbed.chaos.run import idle
from testbed.chaos.stalls import Bystander
from testbed.chaos.traffic import Mix, OnEnd, Traffic
from testbed.demo import with_channels
from testbed.links import parse_address
from testbed.local import Testbed, TestbedSettings
from testbed.samples import held_out

CALLERS = 8
WARM_CALLERS = 48
"""They pause as the others do; some 32 of them wait for an answer at any time, as if 32 did not pause."""
WARM_SECONDS = 10.0
"""At the usual pace, behind the requests at speed: what only speed needs is given back before anything is compared."""
IDLE_PHASE_SECONDS = 10.0
SLACK = {"descriptors": DESCRIPTOR_SLACK, "threads": THREAD_SLACK, "tasks": 8, "in_flight": 0}
_SAMPLE_SECONDS = 0.5
_ERRORS = 20
_TURN_SECONDS, _TURN_REQUESTS = 60.0, 5000
"""Of one run of traffic, so that records do not pile up here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A soak as asked for. warm_up: requests before it; rude: seconds between rude visits, 0 for none."""

    bundle: Path
    minutes: float
    warm_up: int
    rude: float
    seed: int
    connections: int
    logs: Path


@dataclass(slots=True)
class Soak:
    """A running testbed, its clients, and what was seen of its parts: minutes and bytes by name.

    own: of the resident bytes, those that are no pages of files.
    """

    testbed: Testbed
    mix: Mix
    clients: list[AsyncClient]
    seed: int
    minutes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    resident: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    own: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    bystander: Bystander = field(default_factory=lambda: Bystander(time.monotonic()))

    async def warm(self, requests: int) -> dict[str, float]:
        """At least so many ordinary requests, at speed; how they ended, and the seconds they took."""
        began, counts = time.monotonic(), Counter[str]()
        while (left := requests - counts.total()) > 0:
            counts.update(record.ending for record in await self._at_speed(min(left, _TURN_REQUESTS)))
        return {**{str(name): counts[name] for name in Ending}, "seconds": round(time.monotonic() - began, 1)}

    async def _at_speed(self, requests: int) -> list[Record]:
        stop, ended = asyncio.Event(), itertools.count(1)

        def count(record: Record) -> None:
            if next(ended) >= requests:
                stop.set()

        return await self._traffic(WARM_CALLERS, stop, count)

    async def traffic(self, seconds: float) -> list[Record]:
        """Ordinary requests for so long."""
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        records = await self._traffic(CALLERS, stop, self._count)
        self.counts["in_stalls"] += len(self.failed(records)) - len(self.failed(records, excused=False))
        return records

    def failed(self, records: list[Record], excused: bool = True) -> list[Record]:
        """Those that failed. excused: also those that had little time, in which the machine stood still."""
        stalls = self.bystander.stalls
        return [r for r in records if r.ending is Ending.FAILED and (excused or not is_excused(r, stalls))]

    async def _traffic(self, callers: int, stop: asyncio.Event, on_end: OnEnd) -> list[Record]:
        self.seed += 1
        return await Traffic(self.mix, self.clients, self.seed, self.bystander.began, on_end).run(callers, stop)

    async def soak(self, seconds: float, rude_every: float) -> Counter[str]:
        """Ordinary and rude clients for so long, while memory is sampled; what the rude ones did."""
        stop = asyncio.Event()
        rude = Rude(self.testbed.device.address, self.mix.manifest.name, self.mix.pool.images, self.seed)
        async with asyncio.TaskGroup() as group:
            if rude_every:
                group.create_task(rude.run(stop, rude_every))
            group.create_task(self._sample(stop))
            await self._counted(seconds)
            stop.set()
        return rude.counts

    async def _counted(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            await self.traffic(min(left, _TURN_SECONDS))

    def _count(self, record: Record) -> None:
        self.counts[record.ending] += 1
        self.counts["degraded"] += bool(record.reason)
        if record.error and len(self.errors) < _ERRORS:
            self.errors.append(f"{record.error} (deadline {record.asked.deadline_seconds:.2f} s)")

    async def _sample(self, stop: asyncio.Event) -> None:
        began = time.monotonic()
        while not stop.is_set():
            for part in self.testbed.parts:
                self.minutes[part.name].append((time.monotonic() - began) / 60)
                self.resident[part.name].append(census.of_process(part.process.pid).rss_bytes)
                self.own[part.name].append(memory.own_bytes(part.process.pid))
            await asyncio.sleep(_SAMPLE_SECONDS)


async def measure(asked: Asked) -> dict[str, Any]:
    """All of it, as JSON."""
    loaded = bundle.load(asked.bundle)
    model = Model(loaded)
    pool = Pool.of(with_channels(held_out(loaded, None).images), model, asked.seed)
    settings = TestbedSettings(asked.bundle, seed=asked.seed, logs=asked.logs, device_slowdown=80.0, edge_slowdown=2.0)
    async with local.running(settings) as testbed, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(testbed.device.address)) for _ in range(3)]
        run = Soak(testbed, Mix(pool, model.manifest), clients, asked.seed)
        stack.enter_context(run.bystander.watching())
        warm_up = await run.warm(asked.warm_up)
        await run.traffic(WARM_SECONDS)
        look = partial(census.usage, testbed.parts)
        before = await idle(look)
        rude = await run.soak(60 * asked.minutes, asked.rude)
        after = await idle(look, lambda found: all(_given_back(before[n], found[n]) for n in found))
        parts = {name: _part(run, name, before[name], after[name]) for name in before}
        beside = await _idle(run, asked.connections) if asked.connections else None
        testbed.check()
    return {
        "minutes": asked.minutes,
        "seed": asked.seed,
        "warm_up": warm_up,
        "requests": {str(name): run.counts[name] for name in (*Ending, "degraded", "in_stalls")},
        "errors": run.errors,
        "stalls_of_the_machine_seconds": round(covered(run.bystander.stalls), 3),
        "rude": dict(rude),
        "parts": parts,
        "idle_connections": beside,
        "passed": _passed(parts, beside, run.counts),
    }


def _part(run: Soak, name: str, before: Usage, after: Usage) -> dict[str, Any]:
    return {
        "rss": asdict(drift(run.minutes[name], run.resident[name])),
        "own": asdict(drift(run.minutes[name], run.own[name])),
        "rss_bytes": [before.rss_bytes, after.rss_bytes],
        **{each: [getattr(before, each), getattr(after, each)] for each in SLACK},
        "back_to_baseline": _given_back(before, after),
        "samples": {
            "minutes": run.minutes[name][::10],
            "rss_bytes": run.resident[name][::10],
            "own_bytes": run.own[name][::10],
        },
    }


def _given_back(before: Usage, after: Usage) -> bool:
    return all((getattr(after, each) or 0) <= (getattr(before, each) or 0) + slack for each, slack in SLACK.items())


async def _idle(run: Soak, wanted: int) -> dict[str, Any]:
    """Ordinary requests without and with idle connections to the same door."""
    device, count = run.testbed.device, idle_connections.possible(wanted)
    before = census.of_process(device.process.pid)
    alone = await run.traffic(IDLE_PHASE_SECONDS)
    held = idle_connections.opened(parse_address(device.address), count)
    opened = await asyncio.to_thread(held.__enter__)
    try:
        during = census.of_process(device.process.pid)
        beside = await run.traffic(IDLE_PHASE_SECONDS)
    finally:
        await asyncio.to_thread(held.__exit__, None, None, None)
    after = (await idle(partial(census.usage, [device])))[device.name]
    return {
        "wanted": wanted,
        "opened": opened.count,
        "stopped_by": opened.refused or ("the limit of descriptors" if count < wanted else ""),
        "rss_bytes_each": round((during.rss_bytes - before.rss_bytes) / max(opened.count, 1)),
        "failed": len(run.failed([*alone, *beside], excused=False)),
        "answered": {"alone": _answered(alone), "beside": _answered(beside)},
        "descriptors": [before.descriptors, during.descriptors, after.descriptors],
    }


def _answered(records: list[Record]) -> dict[str, float]:
    seconds = [record.seconds for record in records if record.ending is Ending.ANSWERED]
    p50, p95 = np.percentile(seconds, (50, 95))
    return {"count": len(seconds), "p50_ms": round(1000 * float(p50), 2), "p95_ms": round(1000 * float(p95), 2)}


def _passed(parts: dict[str, Any], beside: dict[str, Any] | None, counts: Counter[str]) -> bool:
    held = all(part["rss"]["flat"] and part["back_to_baseline"] for part in parts.values())
    served = beside is None or (
        beside["failed"] == 0
        and beside["opened"] == beside["wanted"]
        and beside["descriptors"][2] <= beside["descriptors"][0] + DESCRIPTOR_SLACK
    )
    return held and served and counts[Ending.FAILED] == counts["in_stalls"]


def table(found: dict[str, Any]) -> Table:
    """One line for each part."""
    shown = Table("part", "MB", "kB a minute", "95 %", "flat", "descriptors", "threads", "tasks", "given back")
    for name, part in found["parts"].items():
        rss, then_now = part["rss"], part["rss_bytes"]
        shown.add_row(
            name,
            " → ".join(f"{value / 1e6:.0f}" for value in then_now),
            f"{rss['bytes_per_minute'] / 1e3:+.0f}",
            f"{rss['low'] / 1e3:+.0f} … {rss['high'] / 1e3:+.0f}",
            "yes" if rss["flat"] else "NO",
            *(
                " → ".join("–" if v is None else f"{v:.0f}" for v in part[n])
                for n in ("descriptors", "threads", "tasks")
            ),
            "yes" if part["back_to_baseline"] else "NO",
        )
    return shown


def main() -> int:
    """Measures, prints a table, writes JSON. Exit code 1 where something grows, is kept, or fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long")
    parser.add_argument("--warm-up", type=int, default=40_000, help="requests before it, at speed; 0: none")
    parser.add_argument("--rude", type=float, default=0.5, help="seconds between visits of rude clients; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the requests and of the rude clients")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--bundle", type=Path, default=Path("models/digits"), help="bundle to serve")
    parser.add_argument("--idle-connections", type=int, default=10_000, help="idle connections; 0: none")
    parser.add_argument("--logs", type=Path, default=Path("out/soak/logs"), help="where the parts write")
    given = parser.parse_args()
    asked = Asked(
        given.bundle, given.minutes, given.warm_up, given.rude, given.seed, given.idle_connections, given.logs
    )
    idle_connections.raise_descriptor_limit()
    found = asyncio.run(measure(asked))
    console = Console()
    console.print(table(found))
    for name in ("warm_up", "requests", "errors", "stalls_of_the_machine_seconds", "rude", "idle_connections"):
        console.print(f"{name.replace('_', ' ')}: {found[name]}")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
