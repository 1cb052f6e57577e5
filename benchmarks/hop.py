"""What one hop costs: a forwarded request, less its compute, against bare grpc.aio calls of the same bytes.

All servers are processes of their own on this machine, with the same channel options and allocator settings. All kinds
of calls take turns of a fraction of a second, so that whatever else the machine does hits them all, and none meets
caches that only others have used. The bare calls send the activation's bytes raw and get back as many bytes as our
reply has. No link is emulated: there is no delay to subtract.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from benchmarks import bare
from benchmarks.peers.catalogue import QUIET
from benchmarks.peers.environment import free_ports
from services import bundle, process
from services.bundle import ExitSpec, InputSpec, Manifest
from services.client import GrpcNextTier
from services.connection import Transport
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.partition import partition
from services.uplink import Uplink
from testbed.local import Part, part

SIZES = {"1 KiB": 1 << 10, "16 KiB": 16 << 10, "150 KiB": 150 << 10, "256 KiB": 256 << 10, "1 MiB": 1 << 20}
TARGETS = {"hop": 2.0, "mebibyte": 1.3, "added": 1.25}
"""Of a hop over a bare call, of one of 1 MiB, and of an added tier over a round trip on a bare stream."""
ADDED_SIZES = ("16 KiB", "150 KiB")
OURS: tuple[Transport, ...] = ("exchange", "unary")

TURN_CALLS = 50
"""Of one kind, one after the other, before it is another one's turn."""
SETTLING_CALLS = 10
"""The first of each turn, which do not count."""

Timed = Callable[[], Awaitable[float]]
"""Does one call; returns the seconds of it that were compute."""


@dataclass(frozen=True, slots=True)
class Result:
    """Microseconds per call by kind: lower quartile, median, upper quartile. `ratios`: of medians."""

    size: str
    calls: int
    microseconds: dict[str, tuple[float, float, float]]
    ratios: dict[str, float]


def sized_bundle(path: Path, nbytes: int) -> Path:
    """A bundle whose input is `nbytes` of float32 and whose network does next to nothing."""
    elements = nbytes // 4
    weights = [
        numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("from", [0]), ("to", [2]), ("axis", [1]))
    ]
    nodes = [
        helper.make_node("Slice", ["input", "from", "to", "axis"], ["a1"], name="slice"),
        helper.make_node("Relu", ["a1"], ["exit_0"], name="relu"),
    ]
    tensors = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", e]) for n, e in (("input", elements), ("exit_0", 2))
    ]
    graph = helper.make_graph(nodes, "sized", tensors[:1], tensors[1:], weights)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    found = partition(onnx.load_model_from_string(data))
    manifest = Manifest(
        name="sized",
        graph_sha256=bundle.sha256(data),
        input=InputSpec(name="input", shape=(elements,)),
        labels=("a", "b"),
        split_points=found.split_points,
        exits=(ExitSpec(index=0, name="only", output="exit_0", split_point=len(found.split_points) - 1),),
    )
    bundle.write(path, manifest, data)
    return path


@asynccontextmanager
async def node(name: str, path: Path, *arguments: str) -> AsyncIterator[Part]:
    """An edge or cloud node that serves the bundle at `path`, and writes no line for each request."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    given = (f"{name}_node", "--bundle", str(path), "--listen", address, *arguments)
    async with part(name, (*given, *QUIET), path / f"{name}.log", address) as running:
        yield running


def asking(path: Path, stages: tuple[Stage, ...], nbytes: int) -> Request:
    activation = np.random.default_rng(0).normal(size=(1, nbytes // 4)).astype(np.float32)
    return Request("bench", bundle.load(path).manifest.model_hash, Plan(stages), 0, activation, Deadline.after(3600))


def hopping(next_tier: GrpcNextTier, request: Request) -> Timed:
    async def call() -> float:
        forwarded = await next_tier.infer(request, "fp32")
        return sum(hop.compute_seconds for hop in forwarded.response.trace.hops)

    return call


def plainly(call: Callable[[bytes], Awaitable[None]], message: bytes) -> Timed:
    async def plain() -> float:
        await call(message)
        return 0.0

    return plain


async def measure(name: str, nbytes: int, calls: int, folder: Path) -> Result:
    """Alternates hops over both transports with bare calls of `nbytes`; for some sizes, two hops as well."""
    path = sized_bundle(folder / str(nbytes), nbytes)
    last = bundle.load(path).manifest.last
    whole = Segment(0, last)
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(node("cloud", path))
        edge = await stack.enter_async_context(node("edge", path, "--next", cloud.address))
        raw = await stack.enter_async_context(bare.serving(path / "bare.log"))
        below = Stage(Tier.DEVICE, Segment(0, 0))
        direct = asking(path, (below, Stage(Tier.CLOUD, whole)), nbytes)
        kinds: dict[str, Timed] = {}
        for transport in OURS:
            uplink = Uplink(Tier.DEVICE, cloud.address, transport=transport)
            stack.push_async_callback(uplink.close)
            kinds[transport] = hopping(GrpcNextTier(uplink, 2), direct)
        reply_bytes = (await GrpcNextTier(uplink, 2).infer(direct, "fp32")).bytes_down
        message = bare.asking_for(reply_bytes, direct.activation.tobytes())
        kinds |= {"bare unary": plainly(raw.unary, message), "bare stream": plainly(raw.stream, message)}
        if name in ADDED_SIZES:
            uplink = Uplink(Tier.DEVICE, edge.address)
            stack.push_async_callback(uplink.close)
            stages = (below, Stage(Tier.EDGE, Segment(0, 0)), Stage(Tier.CLOUD, whole))
            kinds["two hops"] = hopping(GrpcNextTier(uplink, 2), asking(path, stages, nbytes))
        return _result(name, await alternate(kinds, calls))


async def alternate(kinds: dict[str, Timed], calls: int) -> dict[str, list[float]]:
    """Microseconds of at least `calls` calls of each kind, in turns, less compute; the first turns do not count."""
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(-(-calls // TURN_CALLS) + 1):
        for kind, call in kinds.items():
            for index in range(SETTLING_CALLS + TURN_CALLS):
                started = time.perf_counter()
                compute = await call()
                if turn and index >= SETTLING_CALLS:
                    found[kind].append(1e6 * (time.perf_counter() - started - compute))
    return found


def _result(name: str, found: dict[str, list[float]]) -> Result:
    times = {kind: quartiles(values) for kind, values in found.items()}
    medians = {kind: middle for kind, (_, middle, _) in times.items()}
    over = [(ours, plain) for ours in OURS for plain in ("bare unary", "bare stream")]
    ratios = {f"{ours} / {plain}": medians[ours] / medians[plain] for ours, plain in over}
    if "two hops" in medians:
        ratios["added / bare stream"] = (medians["two hops"] - medians["exchange"]) / medians["bare stream"]
    return Result(name, len(found["exchange"]), times, {what: round(ratio, 3) for what, ratio in ratios.items()})


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return round(float(low), 1), round(float(middle), 1), round(float(high), 1)


def _shown(results: list[Result]) -> Table:
    table = Table(title="One hop less its compute, against bare grpc.aio calls; p50 us", title_justify="left")
    kinds, ratios = list(results[1].microseconds), list(results[1].ratios)
    for column in ("activation", *kinds, *ratios):
        table.add_column(column, justify="right")
    for r in results:
        times = (f"{r.microseconds[kind][1]:,.0f}" if kind in r.microseconds else "" for kind in kinds)
        table.add_row(r.size, *times, *(f"{r.ratios[what]:.2f}" if what in r.ratios else "" for what in ratios))
    return table


def main() -> None:
    """Measures every size, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hop", description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--calls", type=int, default=400, help="calls of each kind per size")
    arguments = parser.parse_args()
    process.tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        results = [asyncio.run(measure(name, size, arguments.calls, Path(folder))) for name, size in SIZES.items()]
    Console().print(_shown(results))
    if arguments.json:
        found = {"target_ratios": TARGETS, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
