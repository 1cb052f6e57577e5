"""What one hop costs: a forwarded request, less its compute, against a bare grpc.aio call of the same bytes.

Both servers are processes of their own on this machine, with the same channel options and allocator settings;
calls alternate, so that whatever else the machine does hits both. The bare call sends the activation's bytes
raw and gets back as many bytes as our reply has. No link is emulated: there is no delay to subtract.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from services import bundle, process
from services.bundle import ExitSpec, InputSpec, Manifest
from services.client import GrpcNextTier, channel_options
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.partition import partition
from testbed.local import part

SIZES = {"1 KiB": 1 << 10, "32 KiB": 32 << 10, "256 KiB": 256 << 10, "1 MiB": 1 << 20}
TARGET_RATIO = 2.0
_ECHO = "/benchmarks.Bare/Echo"


@dataclass(frozen=True, slots=True)
class Result:
    """Microseconds per call: medians with quartiles, and the ratio of the medians."""

    size: str
    calls: int
    bare_us: tuple[float, float, float]
    hop_us: tuple[float, float, float]
    ratio: float


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


async def measure(name: str, nbytes: int, calls: int, folder: Path) -> Result:
    """Alternates `calls` hops and bare calls of `nbytes`, after a warm-up."""
    path = sized_bundle(folder / str(nbytes), nbytes)
    loaded = bundle.load(path)
    async with AsyncExitStack() as stack:
        served = ("edge_node", "--bundle", str(path), "--listen", "127.0.0.1:0")
        edge = await stack.enter_async_context(part("edge", served, path / "edge.log"))
        bare = await stack.enter_async_context(part("bare", ("benchmarks.hop", "--serve"), path / "bare.log"))
        next_tier = GrpcNextTier(Tier.DEVICE, edge.address, 2)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(bare.address, channel_options()))
        last = loaded.manifest.last
        plan = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, last), "fp32")))
        activation = np.random.default_rng(0).normal(size=(1, nbytes // 4)).astype(np.float32)
        request = Request("bench", loaded.manifest.model_hash, plan, 0, activation, Deadline.after(600))
        hops, echoes = await _alternate(next_tier, channel, request, calls)
        await next_tier.close()
    ratio = statistics.median(hops) / statistics.median(echoes)
    return Result(name, calls, _quartiles(echoes), _quartiles(hops), round(ratio, 3))


async def _alternate(
    next_tier: GrpcNextTier, channel: grpc.aio.Channel, request: Request, calls: int
) -> tuple[list[float], list[float]]:
    hops: list[float] = []
    echoes: list[float] = []
    reply_bytes = (await next_tier.infer(request, "fp32")).bytes_down
    echo = channel.unary_unary(_ECHO)
    message = reply_bytes.to_bytes(4, "little") + request.activation.tobytes()
    for index in range(calls + calls // 5):
        started = time.perf_counter()
        forwarded = await next_tier.infer(request, "fp32")
        hop = time.perf_counter() - started - forwarded.response.trace.hops[0].compute_seconds
        started = time.perf_counter()
        await echo(message, timeout=10)
        bare = time.perf_counter() - started
        if index >= calls // 5:
            hops.append(1e6 * hop)
            echoes.append(1e6 * bare)
    return hops, echoes


async def _serve_bare() -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return bytes(int.from_bytes(request[:4], "little"))

    process.tune_allocator()
    server = grpc.aio.server(options=channel_options())
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmarks.Bare", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"event": "ready", "address": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return round(float(low), 1), round(float(middle), 1), round(float(high), 1)


def _shown(results: list[Result]) -> Table:
    table = Table(title="One hop less its compute, against a bare grpc.aio call", title_justify="left")
    for column in ("activation", "bare p50 us (quartiles)", "hop p50 us (quartiles)", "ratio"):
        table.add_column(column, justify="right")
    for r in results:
        cells = (f"{middle:,.0f} ({low:,.0f}–{high:,.0f})" for low, middle, high in (r.bare_us, r.hop_us))
        colour = "green" if r.ratio <= TARGET_RATIO else "red"
        table.add_row(r.size, *cells, f"[{colour}]{r.ratio:.2f}[/]")
    return table


def main() -> None:
    """Measures every size, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hop", description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--calls", type=int, default=400, help="calls of each kind per size")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(_serve_bare())
        return
    process.tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        results = [asyncio.run(measure(name, size, arguments.calls, Path(folder))) for name, size in SIZES.items()]
    Console().print(_shown(results))
    if arguments.json:
        found = {"target_ratio": TARGET_RATIO, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
