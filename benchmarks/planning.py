"""What the live planner costs requests that it keeps on the device: it against that same plan, fixed.

CIFAR-10 with its exits on running tiers, over recorded links, one request after the other. No link there is worth a
call, so that the best static plan is the device alone, and a planner can only be slower: by what it computes for each
request, and by its probes. Blocks of requests take turns, too short for the machine to change between two of them, and
who goes first is drawn; probes rest while the fixed plan has its turn.

Run: ``python -m benchmarks.planning --trace DIR --data DIR [--blocks 40] [--json FILE]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from device_agent.agent import Agent
from device_agent.planning import Planning
from services.client import GrpcNextTier
from services.domain import Deadline, LinkEstimate, Tier
from services.errors import OfframpError
from services.preparing import Preparer
from services.probing import Prober
from services.uplink import Uplink
from testbed.bench import conduct, live, policies
from testbed.bench.compare import Bench
from testbed.bench.policies import Static
from testbed.bench.world import Loop, World
from testbed.traces import name_of

BUNDLE = Path("models/cifar10")
BLOCK = 100
TARGET = 1.02
_SETTLE_SECONDS = 4.0
_LIMIT_SECONDS = 10.0
_SEED = 0


@dataclass(slots=True)
class Resting:
    """The link as a prober sees it, which is in use and tells all there is to know while probes are to rest."""

    uplink: Uplink
    rests: bool = False

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        await self.uplink.probe(nbytes, timeout_seconds)

    def link(self) -> LinkEstimate:
        return self.uplink.link()

    @property
    def overdue(self) -> bool:
        return not self.rests and self.uplink.overdue

    @property
    def doubtful(self) -> bool:
        return not self.rests and self.uplink.doubtful

    def quiet_seconds(self) -> float:
        return 0.0 if self.rests else self.uplink.quiet_seconds()

    def untaught_seconds(self) -> float:
        return 0.0 if self.rests else self.uplink.untaught_seconds()


@asynccontextmanager
async def planned(each: Bench, tiers: live.Tiers, file: Path) -> AsyncIterator[tuple[Planning, Resting]]:
    """The live loop on the link of `file`, with its first plan ready, and its probes."""
    shutil.copyfile(file, tiers.traces / file.name)
    manifest = each.workload.bundle.manifest
    uplink = Uplink(Tier.DEVICE, tiers.near.address, tiers.asked.max_message_bytes)
    tiers.device.next_tier = GrpcNextTier(uplink, len(manifest.labels), manifest.input.preprocessing)
    planning, seen = Planning(tiers.device, Preparer(tiers.device, uplink), uplink, tiers.asked), Resting(uplink)
    await live.reshape(tiers, f"trace:{file.name}")
    stop = asyncio.Event()
    probes = asyncio.create_task(Prober(seen, planning.needs_link, planning.probed).run(stop))
    try:
        await planning.start()
        await asyncio.sleep(_SETTLE_SECONDS)
        yield planning, seen
    finally:
        stop.set()
        await probes
        await planning.stop()
        await uplink.close()


async def blocks(each: Bench, tiers: live.Tiers, file: Path, count: int) -> dict[str, list[float]]:
    """Mean milliseconds of each block of either: `planned` and `fixed`, in pairs."""
    inputs, rng = each.workload.inputs(), random.Random(_SEED)
    alone = Static(policies.static_plans(each.workload.bundle.manifest)["device"])
    found: dict[str, list[float]] = {"planned": [], "fixed": []}
    async with planned(each, tiers, file) as (planning, seen):
        agents = {"planned": Agent(tiers.device, planning.plans), "fixed": Agent(tiers.device, alone)}
        for pair in range(count):
            for name in rng.sample(list(agents), 2):
                seen.rests = name == "fixed"
                began = time.perf_counter()
                for at in range(pair * BLOCK, (pair + 1) * BLOCK):
                    sample = at % len(inputs)
                    await agents[name].infer(inputs[sample : sample + 1], Deadline.after(_LIMIT_SECONDS))
                found[name].append(1e3 * (time.perf_counter() - began) / BLOCK)
    return found


def compared(planned: Sequence[float], fixed: Sequence[float]) -> dict[str, float]:
    """Means, their ratio, and between what it lies for 95 of 100 draws of the pairs."""
    ours, other = np.array(planned), np.array(fixed)
    drawn = np.random.default_rng(_SEED).integers(0, len(ours), (2000, len(ours)))
    low, high = np.percentile(ours[drawn].mean(axis=1) / other[drawn].mean(axis=1), [2.5, 97.5])
    ratio = ours.mean() / other.mean()
    told = {"planned_ms": ours.mean(), "fixed_ms": other.mean(), "ratio": ratio, "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in told.items()}


async def measured(files: Sequence[Path], data: Path, count: int, out: Path) -> dict[str, dict[str, float]]:
    """Each link's figures, by its name."""
    asked = conduct.Asked(files, [BUNDLE], data, None, [Loop.CLOSED], (), None, 1, _SEED, out, World())
    each = conduct.ready(conduct.prepared(asked, lambda *_: None)[0], asked, asked.world)
    async with live.running(each, out) as tiers:
        return {name_of(file): compared(**await blocks(each, tiers, file, count)) for file in track(files)}


def main() -> int:
    """Prints a table and the verdict, writes JSON; 1 where the bar is missed on a link."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--trace", type=Path, required=True, help="recorded links, a file or a folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--blocks", type=int, default=40, help=f"of {BLOCK} requests, of either, on each link")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    given = parser.parse_args()
    files = sorted(given.trace.glob("*.csv")) if given.trace.is_dir() else [given.trace]
    if not all(file.is_file() for file in files or [given.trace]) or given.blocks < 2:
        parser.error("--trace needs a recorded link, or a folder of them (*.csv), and --blocks at least 2")
    try:
        with tempfile.TemporaryDirectory() as out:
            found = asyncio.run(measured(files, given.data, given.blocks, Path(out)))
    except OfframpError as error:
        parser.error(str(error))
    table = Table("link", "planned ms", "fixed ms", "ratio", "95 of 100 draws")
    for name, row in found.items():
        shown = f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(name, f"{row['planned_ms']:.2f}", f"{row['fixed_ms']:.2f}", f"{row['ratio']:.3f}", shown)
    most = max(row["ratio"] for row in found.values())
    within = sum(row["ratio"] <= TARGET for row in found.values())
    console, passed = Console(), within == len(found)
    console.print(table)
    verdict = "[green]PASS[/]" if passed else "[red]FAIL[/]"
    console.print(f"{verdict} {within} of {len(found)} links at most {TARGET} of the fixed plan; worst {most:.3f}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"target": TARGET, "links": found}, indent=2) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
