"""A network of 35 µs from tier to tier: how much of the bare loop is left, and how long one caller waits.

It is made as wide as takes it that long on the machine at hand.

The limit is `session.run` in a loop, one thread, one sample at a time. A rival is a minimal unary grpc.aio server that
runs the same network on raw bytes. Windows of all of them alternate, so that whatever else the machine does hits all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks import bare
from benchmarks.hop import OURS, Timed, alternate, node, quartiles
from services import bundle, process
from services.bundle import ExitSpec, InputSpec, Manifest
from services.client import GrpcNextTier
from services.domain import Deadline, FloatArray, Plan, Request, Segment, Stage, Tier
from services.partition import partition
from services.uplink import Uplink

IN_FLIGHT = 32
TARGETS = {"share of the bare loop": 0.90, "one caller / minimal unary": 0.65}
SECONDS = 35e-6
"""Of a bare run of the network that is measured, about."""
WIDTH = 8
_WIDTHS = range(WIDTH, 129, 8)
_SHAPE, _CLASSES = (1, 28, 28), 10
_WARMUP = 300
_TIMED = 500

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Result:
    """Requests per second of each window by kind, and one caller's microseconds: lower quartile, median, upper one.

    width: of the network.
    """

    width: int
    rates: dict[str, list[float]] = field(default_factory=dict)
    microseconds: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    ratios: dict[str, float] = field(default_factory=dict)


def width(folder: Path, seconds: float = SECONDS) -> int:
    """How many channels the network needs on this machine for a bare run to take about `seconds`; tried in `folder`."""
    sample = np.random.default_rng(0).random((1, *_SHAPE), np.float32)
    for each in _WIDTHS:
        model = network(folder / f"width-{each}", each) / "plain.onnx"
        if _run_seconds(model, sample) >= seconds:
            return each
    return _WIDTHS[-1]


def _run_seconds(model: Path, sample: FloatArray) -> float:
    """The median of a bare run."""
    running = bare.session(model)
    given, took = {running.get_inputs()[0].name: sample}, []
    for _ in range(_WARMUP + _TIMED):
        started = time.perf_counter()
        running.run(None, given)
        took.append(time.perf_counter() - started)
    return statistics.median(took[_WARMUP:])


def network(path: Path, channels: int = WIDTH) -> Path:
    """The bundle of a small CNN with random weights, as of handwritten digits; `channels` of its first layer."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (channels, 1, 3, 3), "w2": (2 * channels, channels, 3, 3), "w3": (2 * channels, _CLASSES)}
    weights = [numpy_helper.from_array(rng.normal(0, 0.2, shape).astype(np.float32), n) for n, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w3"], ["exit_0"]),
    ]
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", *_SHAPE])
    output = helper.make_tensor_value_info("exit_0", TensorProto.FLOAT, ["n", _CLASSES])
    graph = helper.make_graph(nodes, "tiny", [given], [output], weights)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    found = partition(onnx.load_model_from_string(data))
    manifest = Manifest(
        name="tiny",
        graph_sha256=bundle.sha256(data),
        input=InputSpec(name="input", shape=_SHAPE),
        labels=tuple(map(str, range(_CLASSES))),
        split_points=found.split_points,
        exits=(ExitSpec(index=0, name="only", output="exit_0", split_point=len(found.split_points) - 1),),
    )
    bundle.write(path, manifest, data)
    (path / "plain.onnx").write_bytes(data)
    return path


async def rate(call: Call, seconds: float) -> float:
    """Requests per second of so many callers at once, each of whom asks again when answered."""
    stop, done = time.perf_counter() + seconds, 0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < stop:
            await call()
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return done / (time.perf_counter() - started)


def bare_rate(model: Path, tensor: FloatArray, seconds: float) -> float:
    """Runs per second of the network in a loop."""
    running = bare.session(model)
    given, output = running.get_inputs()[0].name, running.get_outputs()[0].name
    for _ in range(_WARMUP):
        running.run([output], {given: tensor})
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        running.run([output], {given: tensor})
        done += 1
    return done / (time.perf_counter() - started)


async def latencies(calls: dict[str, Call], count: int) -> dict[str, tuple[float, float, float]]:
    """Microseconds of one caller, the kinds in turns."""
    found = await alternate({kind: _whole(call) for kind, call in calls.items()}, count)
    return {kind: quartiles(values) for kind, values in found.items()}


def _whole(call: Call) -> Timed:
    """A call, all of which counts."""

    async def timed() -> float:
        await call()
        return 0.0

    return timed


async def measure(folder: Path, rounds: int, seconds: float, calls: int) -> Result:
    channels = width(folder)
    path = network(folder / "tiny", channels)
    manifest, model = bundle.load(path).manifest, path / "plain.onnx"
    tensor = np.random.default_rng(0).random((1, *_SHAPE), np.float32)
    plan = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, manifest.last))))
    request = Request("bench", manifest.model_hash, plan, 0, tensor, Deadline.after(3600))
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(node("edge", path))
        rival = await stack.enter_async_context(bare.serving(path / "bare.log", model))
        kinds: dict[str, Call] = {"minimal unary": lambda: rival.run(tensor.tobytes())}
        for transport in OURS:
            uplink = Uplink(Tier.DEVICE, edge.address, transport=transport)
            stack.push_async_callback(uplink.close)
            kinds[transport] = _asking(GrpcNextTier(uplink, _CLASSES), request)
        for call in kinds.values():
            for _ in range(_WARMUP):
                await call()
        rates: dict[str, list[float]] = {kind: [] for kind in (*kinds, "bare loop")}
        for _ in range(rounds):
            rates["bare loop"].append(await asyncio.to_thread(bare_rate, model, tensor, seconds))
            for kind, call in kinds.items():
                rates[kind].append(await rate(call, seconds))
        return _judged(channels, rates, await latencies(kinds, calls))


def _asking(next_tier: GrpcNextTier, request: Request) -> Call:
    return lambda: next_tier.infer(request, "fp32")


def _judged(channels: int, rates: dict[str, list[float]], times: dict[str, tuple[float, float, float]]) -> Result:
    ratios: dict[str, float] = {}
    for kind in OURS:
        for other in ("bare loop", "minimal unary"):
            each = (ours / theirs for ours, theirs in zip(rates[kind], rates[other], strict=True))
            ratios[f"{IN_FLIGHT} in flight, {kind} / {other}"] = round(statistics.median(each), 3)
        ratios[f"one caller, {kind} / minimal unary"] = round(times[kind][1] / times["minimal unary"][1], 3)
    rounded = {kind: [round(value, 1) for value in values] for kind, values in rates.items()}
    return Result(channels, rounded, times, ratios)


def _shown(result: Result) -> Table:
    title = f"A small CNN, {result.width} channels wide, from tier to tier, {IN_FLIGHT} in flight and one caller"
    table = Table(title=title, title_justify="left")
    for column in ("", "requests/s (lowest–highest)", "one caller p50 us (quartiles)"):
        table.add_column(column, justify="right")
    for kind, values in result.rates.items():
        low, middle, high = result.microseconds.get(kind, (0.0, 0.0, 0.0))
        waited = f"{middle:,.0f} ({low:,.0f}–{high:,.0f})" if middle else ""
        table.add_row(kind, f"{statistics.median(values):,.0f} ({min(values):,.0f}–{max(values):,.0f})", waited)
    for what, ratio in result.ratios.items():
        table.add_row(what, f"{ratio:.3f}", "")
    return table


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiny", description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--rounds", type=int, default=7, help="windows of each kind")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a window")
    parser.add_argument("--calls", type=int, default=1000, help="calls of each kind by one caller")
    arguments = parser.parse_args()
    process.tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(measure(Path(folder), arguments.rounds, arguments.seconds, arguments.calls))
    Console().print(_shown(result))
    if arguments.json:
        arguments.json.write_text(json.dumps({"targets": TARGETS, **asdict(result)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
