"""What batching across requests changes: the same tier with it and without, windows in turn, a crowd and one caller.

A batch must pay for the small CNN, and cost nothing where it does not, as for MobileNetV2 on a processor. First runs
alone, so many at once in one process; then whole tiers, whose requests come as calls of their own, as many devices' do:
what one message of an exchange brings is merged before it gets so far. A tier with fewer workers is another question
that the same windows answer. With `--providers cuda` tiers run on a GPU, where a batch pays for larger networks, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import machine, subjects
from benchmarks.hop import node
from benchmarks.load import Found, Loads, Window, loads
from benchmarks.subjects import Subject
from services import bundle, measuring, process
from services.batch_queue import Batching
from services.batcher import Batcher
from services.domain import Deadline, FloatArray, Segment, Tier
from services.model import Model
from services.profile import Measured, Profiler

NETWORKS = ("tiny", "mobilenet_v2")
CALLERS = (32, 1)
AT_ONCE = (1, 2, 4, 8, 16, 32)
MOST = (1, 8, 32)
_MEASURING_SECONDS = 3.0
_RUNS = 240
KINDS: dict[str, tuple[str, ...]] = {
    "off": ("--max-batch-size", "1"),
    "on": (),
    "off, 2 workers": ("--max-batch-size", "1", "--workers", "2"),
}


@dataclass(frozen=True, slots=True)
class Compared:
    """One kind of tier beside the one without batching: ratios of windows next to each other, quartiles and median.

    rate: requests per second, higher is better. p50: of a request's time, and cpu: processor time of the tier for each
    request, lower is better; the last says most on a machine that has other work.
    """

    network: str
    callers: int
    kind: str
    rates: list[float]
    rate_ratio: tuple[float, float, float]
    p50_ratio: tuple[float, float, float]
    cpu_ratio: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class _Done:
    """One window, and the processor seconds of the tier for each request of it."""

    found: Found
    cpu: float


@dataclass(frozen=True, slots=True)
class Runs:
    """Processor time of one run of the small CNN through the batcher, `at_once` of them in a turn of the event loop.

    ratio: over that without batching, quartiles.
    """

    at_once: int
    most: int
    microseconds: float
    ratio: tuple[float, float, float]


async def runs(path: Path, rounds: int) -> list[Runs]:
    """Batches of different largest sizes, 1 is none, in turns."""
    model = Model(bundle.load(path))
    whole, sample = Segment(0, model.last), Subject.at(path).sample
    measured = Measured(measuring.measure(model, _MEASURING_SECONDS, batch_sizes=MOST))
    batchers = {most: _batcher(model, measured, most) for most in MOST}
    found = []
    for at_once in AT_ONCE:
        taken: dict[int, list[float]] = {most: [] for most in MOST}
        for number in range(rounds + 1):
            for most, batcher in batchers.items():
                seconds = await _seconds_of_run(batcher, whole, sample, at_once)
                taken[most] += [seconds] if number else []
        for most in MOST[1:]:
            ratio = _quartiles([ours / without for ours, without in zip(taken[most], taken[1], strict=True)])
            found.append(Runs(at_once, most, round(1e6 * statistics.median(taken[most]), 1), ratio))
    return found


def _batcher(model: Model, measured: Measured, most: int) -> Batcher:
    profiler = Profiler(Tier.EDGE)
    profiler.learn(measured)
    return Batcher(model, profiler, ThreadPoolExecutor(1), Batching(most))


async def _seconds_of_run(batcher: Batcher, piece: Segment, sample: FloatArray, at_once: int) -> float:
    deadline, turns = Deadline.after(3600), max(_RUNS // at_once, 6)
    started = time.process_time()
    for _ in range(turns):
        await asyncio.gather(*(batcher.run(piece, sample, deadline) for _ in range(at_once)))
    return (time.process_time() - started) / turns / at_once


async def measure(folder: Path, asked: argparse.Namespace) -> list[Compared]:
    """asked: as on the command line."""
    async with loads() as load:
        found = subjects.write(folder, tuple(asked.networks))
        return [each for name in asked.networks for each in await _network(load, name, found[name], asked)]


async def _network(load: Loads, name: str, subject: Subject, asked: argparse.Namespace) -> list[Compared]:
    rounds, seconds = asked.rounds, asked.seconds
    async with AsyncExitStack() as stack:
        tiers = {}
        for kind, settings in KINDS.items():
            given = ("--profile-cache", str(subject.path / "profiles"), "--providers", asked.providers, *settings)
            tiers[kind] = await stack.enter_async_context(node("edge", subject.path, *given))
        compared = []
        for callers in CALLERS:
            done: dict[str, list[_Done]] = {kind: [] for kind in KINDS}
            for number in range(rounds + 1):
                for kind, running in tiers.items():
                    window = Window("unary", str(subject.path), running.address, callers, seconds)
                    one = await _window(load, window, running.process.pid)
                    done[kind] += [one] if number else []
            compared += [_beside(name, callers, kind, done[kind], done["off"]) for kind in KINDS]
        return compared


async def _window(load: Loads, window: Window, pid: int) -> _Done:
    """The load answers some requests before its window and after it, which the tier's time has in it for all kinds."""
    before = _processor_seconds(pid)
    found = await load.measure(window)
    return _Done(found, (_processor_seconds(pid) - before) / (found.rate * window.seconds))


def _processor_seconds(pid: int) -> float:
    """Of user and system time, by `/proc`."""
    values = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def _beside(network: str, callers: int, kind: str, ours: list[_Done], without: list[_Done]) -> Compared:
    pairs = list(zip(ours, without, strict=True))
    return Compared(
        network,
        callers,
        kind,
        [round(one.found.rate, 1) for one in ours],
        _quartiles([one.found.rate / other.found.rate for one, other in pairs]),
        _quartiles([one.found.p50_us / other.found.p50_us for one, other in pairs]),
        _quartiles([one.cpu / other.cpu for one, other in pairs]),
    )


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return round(low, 3), round(middle, 3), round(high, 3)


def _shown(found: list[Compared]) -> Table:
    table = Table(title="Batching across requests, over a tier without it", title_justify="left")
    for column in (
        "network",
        "callers",
        "tier",
        "requests/s",
        "rate ratio (quartiles)",
        "p50 ratio (quartiles)",
        "cpu ratio",
    ):
        table.add_column(column, justify="right")
    for each in found:
        ratios = (
            f"{middle:.2f} ({low:.2f}–{high:.2f})"
            for low, middle, high in (each.rate_ratio, each.p50_ratio, each.cpu_ratio)
        )
        table.add_row(each.network, str(each.callers), each.kind, f"{statistics.median(each.rates):,.0f}", *ratios)
    return table


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching", description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--rounds", type=int, default=9, help="windows of each kind")
    parser.add_argument("--seconds", type=float, default=1.2, help="length of a window")
    parser.add_argument("--providers", default="cpu", help="what runs the network: cpu, cuda or openvino")
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS, help="which to measure")
    arguments = parser.parse_args()
    process.tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        alone = asyncio.run(runs(subjects.write(Path(folder), ("tiny",))["tiny"].path, arguments.rounds))
        found = asyncio.run(measure(Path(folder), arguments))
    for each in alone:
        low, middle, high = each.ratio
        print(f"{each.at_once} at once, batches of up to {each.most}: {middle:.2f} ({low:.2f}–{high:.2f})")
    Console(width=130).print(_shown(found))
    if arguments.json:
        values = {
            "machine": machine.facts(),
            "runs": [asdict(each) for each in alone],
            "compared": [asdict(each) for each in found],
        }
        arguments.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
