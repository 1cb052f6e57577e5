"""More requests than a tier can answer: does it still answer as many as it can, in time, and its health checks?

One edge node in a process of its own, asked from this one over the public door. Its runs are slowed by sleeping, so
that what it can do does not hang on who else uses the machine; with `--bundle` and `--slowdown 1` it really computes.
Three kinds of windows alternate: callers that wait for
their answers, which find the peak; requests that come at that rate whether or not the ones before were answered; and
three times as many. Arrivals are Poisson, from a seed. Each request has a deadline, after which nobody waits for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.hop import node
from benchmarks.tiny import network
from services import bundle, process
from services.bundle import Manifest
from services.channels import channel_options
from services.open_inference import messages

OFFERED = {"1x": 1.0, "3x": 3.0}
PEAK = "peak"
CALLERS = 48
WARM_CALLERS, WARM_SECONDS = 20, 1.0
TARGETS = {"goodput at 3x / peak": 0.90, "late / accepted": 0.01, "memory, last / first": 1.05, "health, share": 1.0}
_HEALTH_SECONDS = 0.1
_HEALTH_PATIENCE = 1.0
_LATE = "DEADLINE_EXCEEDED"

Call = Callable[[], Awaitable[str]]
"""Asks once; how it ended: OK, or the name of a status."""


@dataclass(slots=True)
class Window:
    """What came of one window. offered, goodput: requests per second; seconds: of each that was answered in time."""

    kind: str
    offered: float = 0.0
    goodput: float = 0.0
    ended: dict[str, int] = field(default_factory=dict)
    p50: float = 0.0
    p99: float = 0.0
    lag_p99: float = 0.0
    health_asked: int = 0
    health_answered: int = 0
    health_p99: float = 0.0
    resident_bytes: int = 0


@dataclass(slots=True)
class Tally:
    """How requests ended, how long the answered ones took, and how late they were sent, in seconds."""

    ended: Counter[str] = field(default_factory=Counter)
    took: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    async def ask(self, call: Call) -> None:
        began = time.perf_counter()
        how = await call()
        self.ended[how] += 1
        if how == "OK":
            self.took.append(time.perf_counter() - began)


@dataclass(slots=True)
class Health:
    """Checks beside the load: how many were asked, and the seconds of those that were answered."""

    asked: int = 0
    took: list[float] = field(default_factory=list)

    async def watch(self, channel: grpc.aio.Channel) -> None:
        """Until cancelled."""
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        while True:
            began = time.perf_counter()
            try:
                reply = await check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_PATIENCE)
                if reply.status == health_pb2.HealthCheckResponse.SERVING:
                    self.took.append(time.perf_counter() - began)
            except grpc.aio.AioRpcError:
                pass
            self.asked += 1
            await asyncio.sleep(_HEALTH_SECONDS)


async def closed_loop(call: Call, seconds: float, callers: int = CALLERS) -> Tally:
    """So many callers, each of whom asks again when answered."""
    tally, stop = Tally(), time.perf_counter() + seconds

    async def caller() -> None:
        while time.perf_counter() < stop:
            await tally.ask(call)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return tally


async def open_loop(call: Call, seconds: float, rate: float, rng: random.Random) -> Tally:
    """`rate` requests per second, whatever becomes of them."""
    tally, asking = Tally(), set[asyncio.Task[None]]()
    began = time.perf_counter()
    due = began + rng.expovariate(rate)
    while due < began + seconds:
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tally.lags.append(time.perf_counter() - due)
        task = asyncio.create_task(tally.ask(call))
        asking.add(task)
        task.add_done_callback(asking.discard)
        due += rng.expovariate(rate)
    await asyncio.gather(*asking)
    return tally


async def window(kind: str, tally: Awaitable[Tally], seconds: float, channel: grpc.aio.Channel, pid: int) -> Window:
    """One window with health checks beside it."""
    health = Health()
    watching = asyncio.create_task(health.watch(channel))
    found = await tally
    watching.cancel()
    p50, p99 = np.percentile(found.took or [0.0], (50, 99)).tolist()
    return Window(
        kind,
        round(found.ended.total() / seconds, 1),
        round(found.ended["OK"] / seconds, 1),
        dict(found.ended),
        p50,
        p99,
        float(np.percentile(found.lags or [0.0], 99)),
        health.asked,
        len(health.took),
        float(np.percentile(health.took or [0.0], 99)),
        resident(pid),
    )


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) << 10


def asking(channel: grpc.aio.Channel, manifest: Manifest, deadline: float) -> Call:
    """One sample to the public door, as any client would ask."""
    request = messages.ModelInferRequest(model_name=manifest.name)
    shape = (1, *manifest.input.shape)
    request.inputs.add(name=manifest.input.name, datatype="FP32", shape=shape)
    request.raw_input_contents.append(np.random.default_rng(0).random(shape, np.float32).tobytes())
    method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    body = request.SerializeToString()

    async def call() -> str:
        try:
            await method(body, timeout=deadline)
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        return "OK"

    return call


async def measure(path: Path, rounds: int, seconds: float, deadline: float, given: tuple[str, ...]) -> list[Window]:
    """Of a node that serves the bundle at `path`, where its log goes, too."""
    manifest, rng = bundle.load(path).manifest, random.Random(0)
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(node("edge", path, *given))
        asks = await stack.enter_async_context(_channel(edge.address, 0))
        checks = await stack.enter_async_context(_channel(edge.address, 1))
        call, pid, windows = asking(asks, manifest, deadline), edge.process.pid, list[Window]()
        for callers in range(1, WARM_CALLERS):  # a run is slowed by the fastest of its batch size, once that is known
            await closed_loop(call, WARM_SECONDS, callers)
        for _ in range(rounds):
            windows.append(await window(PEAK, closed_loop(call, seconds), seconds, checks, pid))
            peak = statistics.median(each.goodput for each in windows if each.kind == PEAK)
            for kind, times in OFFERED.items():
                load = open_loop(call, seconds, times * peak, rng)
                windows.append(await window(kind, load, seconds, checks, pid))
        return windows


def _channel(address: str, number: int) -> grpc.aio.Channel:
    """With a connection of its own: channels that are opened alike share one."""
    return grpc.aio.insecure_channel(address, [*channel_options(), ("offramp.number", number)])


def judged(windows: list[Window]) -> dict[str, float]:
    """What TARGETS speak of: medians over windows; at most 1 % late of those accepted is a p99 within the deadline."""
    of = {kind: [each for each in windows if each.kind == kind] for kind in (PEAK, *OFFERED)}
    goodput = {kind: statistics.median(each.goodput for each in found) for kind, found in of.items()}
    checks = sum(each.health_answered for each in windows) / sum(each.health_asked for each in windows)
    crowded = of["3x"]
    return {
        "goodput at 1x / peak": round(goodput["1x"] / goodput[PEAK], 3),
        "goodput at 3x / peak": round(goodput["3x"] / goodput[PEAK], 3),
        "late / accepted": round(sum(each.ended.get(_LATE, 0) for each in crowded) / accepted(crowded), 4),
        "memory, last / first": round(crowded[-1].resident_bytes / crowded[0].resident_bytes, 3),
        "health, share": round(checks, 4),
    }


def accepted(windows: list[Window]) -> int:
    return max(sum(each.ended.get("OK", 0) + each.ended.get(_LATE, 0) for each in windows), 1)


def plot(windows: list[Window], deadline: float, path: Path) -> None:
    """Goodput against what was offered, and what answered requests took, window by window."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, colour in ((PEAK, "#8d99a6"), ("1x", "#2a9d8f"), ("3x", "#e76f51")):
        found = [each for each in windows if each.kind == kind]
        left.plot([each.offered for each in found], [each.goodput for each in found], "o", color=colour, label=kind)
        right.plot([each.p50 for each in found], "--", color=colour)
        right.plot([each.p99 for each in found], "o-", color=colour, label=f"{kind}: p99, p50 dashed")
    right.axhline(deadline, color="#264653", linestyle=":", label="deadline")
    left.set(xlabel="offered, requests/s", ylabel="answered in time, requests/s", xlim=(0, None), ylim=(0, None))
    right.set(xlabel="round", ylabel="seconds of an answered request", ylim=(0, None))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def shown(windows: list[Window]) -> Table:
    title = "Requests per second at one tier; milliseconds of those answered, and of health checks (p99)"
    table = Table(title=title, title_justify="left")
    for column in ("", "offered/s", "in time", "refused", "late", "p50 ms", "p99 ms", "health", "MiB"):
        table.add_column(column, justify="right")
    for each in windows:
        total = max(sum(each.ended.values()), 1)
        refused, late = (each.offered * each.ended.get(how, 0) / total for how in ("UNAVAILABLE", _LATE))
        times = (1000 * value for value in (each.p50, each.p99, each.health_p99))
        numbers = (each.offered, each.goodput, refused, late, *times, each.resident_bytes / 2**20)
        table.add_row(each.kind, *(f"{value:,.0f}" for value in numbers))
    return table


def against(ratios: dict[str, float]) -> Table:
    table = Table()
    for column in ("", "measured", "target"):
        table.add_column(column, justify="right")
    for what, ratio in ratios.items():
        table.add_row(what, f"{ratio:g}", f"{TARGETS[what]:g}" if what in TARGETS else "")
    return table


def missed(ratios: dict[str, float]) -> list[str]:
    """The targets that were not met: shares of what should be at least so much, all else at most."""
    least = ("goodput at 3x / peak", "health, share")
    return [name for name, goal in TARGETS.items() if (ratios[name] < goal if name in least else ratios[name] > goal)]


def main() -> int:
    """Measures, prints a table, writes JSON and a picture. 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the results to; the picture goes beside it")
    parser.add_argument("--rounds", type=int, default=5, help="windows of each kind")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window")
    parser.add_argument("--deadline", type=float, default=1.0, help="deadline of a request, in seconds")
    parser.add_argument("--slowdown", type=float, default=1000.0, help="how many times as long each run takes")
    parser.add_argument("--adaptive", action="store_true", help="with the adaptive limit")
    parser.add_argument("--bundle", type=Path, help="what to serve; none: a small network with random weights")
    parser.add_argument("--workers", type=int, help="runs side by side; none: as many as a tier has by default")
    arguments = parser.parse_args()
    process.tune_allocator()
    given = ("--compute-slowdown", str(arguments.slowdown), "--adaptive-limit", str(arguments.adaptive))
    given += () if arguments.workers is None else ("--workers", str(arguments.workers))
    with tempfile.TemporaryDirectory() as folder:
        served = Path(folder, "served")
        path = shutil.copytree(arguments.bundle, served) if arguments.bundle else network(served)
        windows = asyncio.run(measure(path, arguments.rounds, arguments.seconds, arguments.deadline, given))
    ratios = judged(windows)
    Console().print(shown(windows), against(ratios))
    if arguments.json:
        said = {
            "targets": TARGETS,
            "ratios": ratios,
            "given": vars(arguments) | {"json": str(arguments.json), "bundle": str(arguments.bundle)},
        }
        arguments.json.write_text(json.dumps(said | {"windows": [asdict(each) for each in windows]}, indent=2) + "\n")
        plot(windows, arguments.deadline, arguments.json.with_suffix(".png"))
    for name in (failed := missed(ratios)):
        print(f"missed: {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
