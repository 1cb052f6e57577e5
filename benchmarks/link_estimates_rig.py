"""A tier behind an emulated link for `benchmarks.link_estimates`, and calls of any size to it."""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hop import sized_bundle
from services import bundle
from services.client import GrpcNextTier
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.uplink import Uplink
from testbed.local import part

TRACES_AT = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces" / "csv"


@dataclass(slots=True)
class Bench:
    """A tier behind an emulated link, and how to change that link."""

    address: str
    control: str
    path: Path
    call_ms: float = 0.0

    def put(self, **link: object) -> dict[str, Any]:
        """Changes the link at once; without arguments tells how it is."""
        connection = http.client.HTTPConnection(self.control, timeout=5)
        connection.request("PUT" if link else "GET", "/link", json.dumps(link) if link else None)
        told: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return told

    def shape(self, mbit: float, round_trip_ms: float = 20.0) -> str:
        self.put(rate=f"{mbit:g}mbit", rtt=f"{round_trip_ms:g}ms", carrying=True)
        return f"{mbit:g} Mbit/s, {round_trip_ms:g} ms"

    @asynccontextmanager
    async def next_tier(self) -> AsyncIterator[Caller]:
        """A fresh channel that has connected, and knows nothing."""
        uplink = Uplink(Tier.DEVICE, self.address)
        try:
            yield Caller(uplink, GrpcNextTier(uplink, 2), bundle.load(self.path).manifest.model_hash)
        finally:
            await uplink.close()


@dataclass(slots=True)
class Caller:
    """Calls of any number of KiB."""

    uplink: Uplink
    tier: GrpcNextTier
    model_hash: str

    async def call(self, kib: int) -> float:
        """Seconds on the network."""
        plan = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.CLOUD, Segment(0, 2), "fp32")))
        activation = np.random.default_rng(kib).normal(size=(kib, 256)).astype(np.float32)
        request = Request("bench", self.model_hash, plan, 0, activation, Deadline.after(30))
        started = time.perf_counter()
        forwarded = await self.tier.infer(request, "fp32")
        return time.perf_counter() - started - forwarded.encode_seconds - forwarded.response.trace.seconds

    async def connect(self) -> None:
        await self.uplink.probe(0, 5)  # not recorded: it connects

    @property
    def mbit(self) -> float:
        """Believed; 0 for unknown."""
        return (self.tier.link().up_bytes_per_second or 0.0) * 8 / 1e6

    @property
    def rtt_ms(self) -> float:
        return 1e3 * (self.tier.link().rtt_seconds or 0.0)


@asynccontextmanager
async def started() -> AsyncIterator[Bench]:
    """A cloud node that does next to nothing, behind a link; both are processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        path = sized_bundle(Path(folder) / "sized", 1024)
        async with AsyncExitStack() as stack:
            served = ("cloud_node", "--bundle", str(path), "--listen", "127.0.0.1:0", "--max-batch", "1024")
            node = await stack.enter_async_context(part("cloud", served, path / "cloud.log"))
            asked = ["testbed.links", "--listen", "127.0.0.1:0", "--target", node.address, "--rate", "1mbit"]
            asked += ["--control", "127.0.0.1:0", *(("--traces", str(TRACES_AT)) if TRACES_AT.is_dir() else ())]
            link = await stack.enter_async_context(part("link", asked, path / "link.log"))
            yield Bench(link.address, link.announced["control"], path)
