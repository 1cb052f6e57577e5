"""What metrics cost: counting one request, counting one gRPC call on either side, and one scrape.

The calls are of a method that does nothing, client and servers in one process and on one event loop, so that every
microsecond of either side shows; with counting and without take turns, so that whatever else the machine does hits
both. A request is counted after its answer has left, a call while it is on its way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from rich.table import Table

from services import bundle
from services.bundle import Manifest
from services.domain import Plan, Segment, Stage, Tier
from services.methods import Around, Methods
from services.metrics.calls import Calls
from services.metrics.channel import CountedChannel
from services.metrics.requests import Metrics, Power
from services.metrics.server_calls import ServerCalls
from services.metrics.triton import TritonNames
from services.observing import Finished
from services.response import HopTrace, Predictions, Response, Trace

TARGET_CALL_US = 10.0
_PATH = "/benchmarks.Nothing/Do"
_REPEATS = 7


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds: the median with its quartiles, of `_REPEATS` rounds."""

    what: str
    us: tuple[float, float, float]


def finished(manifest: Manifest, samples: int) -> Finished:
    """A request of the device whose samples left at every exit, as many at each."""
    answers = Predictions.empty(samples, len(manifest.labels))
    exits = np.arange(samples) % len(manifest.exits)
    answers.exits[:] = exits
    answers.tiers[:] = np.minimum(exits, int(Tier.CLOUD))
    answers.confidences[:] = np.linspace(0.3, 1.0, samples)
    third = manifest.last // 3
    parts = (Segment(0, third), Segment(third, 2 * third), Segment(2 * third, manifest.last))
    plan = Plan(tuple(Stage(tier, part) for tier, part in zip(Tier, parts, strict=True)), 0.05)
    hop = HopTrace(Tier.DEVICE, 0.001, 0.001, 0.01, 0.001, 0.02, bytes_up=1000, bytes_down=200)
    return Finished(
        "request", Tier.DEVICE, manifest, plan, Response(answers, Trace((hop, HopTrace(Tier.EDGE)))), time.time_ns()
    )


def counting(manifest: Manifest, samples: int, times: int) -> Cost:
    """One request with all that is counted of it."""
    metrics, names, one = Metrics(Tier.DEVICE, "0", Power(5.0, 1.0, 1e-6)), TritonNames(), finished(manifest, samples)
    names.serve(manifest, lambda: 0)
    rounds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        for _ in range(times):
            metrics.answered(one)
            names.answered(one)
        rounds.append(1e6 * (time.perf_counter() - started) / times)
    return Cost(f"counting a request of {samples}", _quartiles(rounds))


async def calls(count: int) -> list[Cost]:
    """What counting adds to a call: on the server's side, and on the client's."""
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(_channel(await _serve(stack, ())))
        gated = await stack.enter_async_context(
            _channel(await _serve(stack, (ServerCalls(Calls("server", CollectorRegistry())).counted,)))
        )
        counted = CountedChannel(plain, Calls("client", CollectorRegistry()))
        ways = [channel.unary_unary(_PATH) for channel in (plain, gated, counted)]
        rounds = [await _alternate(ways, count) for _ in range(_REPEATS)]
    bare, server, client = np.array(rounds).T
    return [
        Cost("a bare call", _quartiles(bare)),
        Cost("counting adds, server", _quartiles(server - bare)),
        Cost("counting adds, client", _quartiles(client - bare)),
    ]


async def _serve(stack: AsyncExitStack, around: Sequence[Around]) -> int:
    async def nothing(request: bytes, context: object) -> bytes:
        return b""

    server, methods = grpc.aio.server(), Methods()
    methods.add_registered_method_handlers("benchmarks.Nothing", {"Do": grpc.unary_unary_rpc_method_handler(nothing)})
    methods.serve(server, around)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return port


def _channel(port: int) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


async def _alternate(ways: Sequence[Callable[..., Awaitable[Any]]], count: int) -> list[float]:
    """Median microseconds of a call, by way."""
    took: list[list[float]] = [[] for _ in ways]
    for _ in range(count):
        for call, seconds in zip(ways, took, strict=True):
            started = time.perf_counter()
            await call(b"", timeout=10)
            seconds.append(time.perf_counter() - started)
    return [1e6 * float(np.median(seconds)) for seconds in took]


def scrape(manifest: Manifest, times: int) -> tuple[Cost, int]:
    """Writing the page of a device that has answered; and how many bytes it has."""
    metrics = Metrics(Tier.DEVICE, "0")
    Calls("server", metrics.registry).method(_PATH)
    metrics.answered(finished(manifest, 30))
    rounds = []
    for _ in range(times):
        started = time.perf_counter()
        page = generate_latest(metrics.registry)
        rounds.append(1e6 * (time.perf_counter() - started))
    return Cost("a scrape", _quartiles(rounds)), len(page)


def _quartiles(values: Sequence[float] | np.ndarray[Any, Any]) -> tuple[float, float, float]:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return round(float(low), 2), round(float(middle), 2), round(float(high), 2)


def main() -> None:
    """Measures all of it, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics_cost", description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--bundle", type=Path, default=Path("models/digits"), help="bundle whose exits are counted")
    parser.add_argument("--calls", type=int, default=600, help="calls of each kind in a round")
    arguments = parser.parse_args()
    manifest = bundle.read_manifest(arguments.bundle)
    requests = [counting(manifest, samples, 2000) for samples in (1, 64)]
    page, page_bytes = scrape(manifest, 50)
    costs = [*requests, *asyncio.run(calls(arguments.calls)), page]
    table = Table(title="What metrics cost", title_justify="left")
    table.add_column("what")
    table.add_column("median us (quartiles)", justify="right")
    for cost in costs:
        table.add_row(cost.what, "{1:,.1f} ({0:,.1f} to {2:,.1f})".format(*cost.us))
    Console().print(table)
    if arguments.json:
        found = {"target_call_us": TARGET_CALL_US, "page_bytes": page_bytes, "costs": [asdict(cost) for cost in costs]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
