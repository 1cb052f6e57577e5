"""What the live planner costs requests that it keeps on the device: it against that same plan fixed, and the oracle.

CIFAR-10 with its exits on running tiers, over recorded links, one request after the other or at random times. No link
there is worth a call of its own, so that the best static plan is the device alone. One after the other, a planner can
only be slower: by what it computes for each request, by its probes, and by what it hears from the tiers every ten
seconds, which falls into any turn. At random times, a request that would wait for the device may also leave it. The
oracle pays for its search. Blocks of requests take turns, too short for the machine to change from one to the next, and
who goes first is drawn; probes, and the time by which they are due, rest while others than the planner have their turn.

Run: ``python -m benchmarks.planning --trace DIR --data DIR [--loop open] [--blocks 40] [--json FILE]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.planning_turns import FIXED, ORACLE, PLANNED, blocks
from services.errors import OfframpError
from testbed.bench import calibration, conduct, live
from testbed.bench.world import Loop, World
from testbed.traces import TraceError, name_of, read_trace

BUNDLE = Path("models/cifar10")
TARGETS = {FIXED: 1.02, ORACLE: 1.05}
_SEED = 0
_NAME_CHARACTERS = 24  # the last: as many as leave room for the numbers on 80 columns

Row = dict[str, float]


def compared(ours: Sequence[float], theirs: Sequence[float]) -> Row:
    """The ratio of the means, and between what it lies for 95 of 100 draws of the pairs."""
    above, below = np.array(ours), np.array(theirs)
    drawn = np.random.default_rng(_SEED).integers(0, len(above), (2000, len(above)))
    low, high = np.percentile(above[drawn].mean(axis=1) / below[drawn].mean(axis=1), [2.5, 97.5])
    told = {"ratio": above.mean() / below.mean(), "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in told.items()}


def row(found: Mapping[str, Sequence[float]]) -> dict[str, Row]:
    """Of one link: mean milliseconds of each side, and the planner's over those of the others."""
    means = {f"{name}_ms": round(float(np.mean(of)), 4) for name, of in found.items()}
    return {"means": means} | {f"over_{name}": compared(found[PLANNED], found[name]) for name in TARGETS}


async def measured(files: Sequence[Path], data: Path, loop: Loop, count: int, out: Path) -> dict[str, dict[str, Row]]:
    """Each link's figures, by its name."""
    asked = conduct.Asked(files, [BUNDLE], data, None, [loop], (), None, 1, _SEED, out, World())
    workload = conduct.prepared(asked, lambda *_: None)[0]
    each = conduct.ready(workload, asked, asked.world)
    async with live.running(each, out) as tiers:
        each = conduct.ready(workload, asked, (await calibration.calibrate(each, tiers)).of(asked.world))
        return {name_of(file): row(await blocks(each, tiers, file, loop, count)) for file in track(files)}


def shown(found: Mapping[str, Mapping[str, Row]]) -> Table:
    """The planner's milliseconds and ratios on each link, with between what 95 of 100 draws of blocks put them."""
    table = Table("link", "ms", "/fixed", "95 of 100", "/oracle", "95 of 100", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, told in found.items():
        cells = [f"{told['means'][f'{PLANNED}_ms']:.2f}"]
        for ratio in (told[f"over_{other}"] for other in TARGETS):
            cells += [f"{ratio['ratio']:.3f}", f"{ratio['low']:.3f}–{ratio['high']:.3f}"]
        table.add_row(name[-_NAME_CHARACTERS:], *cells)
    return table


def verdict(found: Mapping[str, Mapping[str, Row]], other: str) -> tuple[bool, str]:
    """Whether the planner is near enough to `other` on every link, and a line that says so."""
    ratios = [told[f"over_{other}"]["ratio"] for told in found.values()]
    within = sum(ratio <= TARGETS[other] for ratio in ratios)
    passed = within == len(ratios)
    links = f"{within} of {len(ratios)} links at most {TARGETS[other]} of {other}; worst {max(ratios):.3f}"
    return passed, f"{'[green]PASS[/]' if passed else '[red]FAIL[/]'} {links}, mean {np.mean(ratios):.3f}"


def main() -> int:
    """Prints a table and the verdicts, writes JSON; 1 where a bar is missed on a link."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--trace", type=Path, required=True, help="recorded links, a file or a folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--loop", type=Loop, choices=list(Loop), default=Loop.CLOSED, help="how requests arrive")
    parser.add_argument("--blocks", type=int, default=40, help="of requests, of each side, on each link")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    given = parser.parse_args()
    files = sorted(given.trace.glob("*.csv")) if given.trace.is_dir() else [given.trace]
    if not all(file.is_file() for file in files or [given.trace]) or given.blocks < 2:
        parser.error("--trace needs a recorded link, or a folder of them (*.csv), and --blocks at least 2")
    try:
        for file in files:
            read_trace(file)  # before anything is started
        with tempfile.TemporaryDirectory() as out:
            found = asyncio.run(measured(files, given.data, given.loop, given.blocks, Path(out)))
    except (OfframpError, TraceError) as error:
        parser.error(str(error))
    console, verdicts = Console(), [verdict(found, other) for other in TARGETS]
    console.print(shown(found))
    for _, line in verdicts:
        console.print(line)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        told = {"loop": given.loop, "targets": TARGETS, "links": found}
        given.json.write_text(json.dumps(told, indent=2) + "\n")
    return 0 if all(passed for passed, _ in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
