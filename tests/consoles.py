"""A device agent that computes everything itself, with its console on a free port, in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from device_agent.console.links import LinkControls
from device_agent.console.safety import ASKED_BY
from device_agent.console.server import ConsoleServer
from device_agent.console.view import View, views
from services.bundle import Manifest
from services.domain import Plan, Tier
from services.observing import Finished
from services.response import HopTrace, Predictions, Response, Trace
from tests.journeys import answers
from tests.tiers import Paths, device

OURS = {ASKED_BY: "1"}


@dataclass(slots=True)
class Served:
    """A console at `url`; `ask` calls it as its own page does."""

    url: str
    view: View
    session: aiohttp.ClientSession
    server: ConsoleServer

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, **{"headers": OURS} | more) as reply:
            return reply.status, await reply.json()


@asynccontextmanager
async def console(tiny: Paths, control: str | None = None) -> AsyncIterator[Served]:
    async with device(tiny, splits="8,8", metrics_listen="-") as running:
        shown = views(running.models, running.telemetry.observers)
        server = ConsoleServer(shown, LinkControls([control]) if control else None)
        url = await server.start("127.0.0.1:0")
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
                yield Served(url, next(iter(shown.values())), session, server)
        finally:
            await server.stop()


def finished(
    manifest: Manifest, plan: Plan, given: Predictions | None = None, seconds: float = 0.01, name: str = "r"
) -> Finished:
    """An answered request that took `seconds`, all of it computing here."""
    hop = HopTrace(Tier.DEVICE, compute_seconds=seconds, bytes_up=100, bytes_down=10)
    return Finished(name, Tier.DEVICE, manifest, plan, Response(given or answers(1), Trace((hop,))), time.time_ns())
