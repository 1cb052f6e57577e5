"""`offramp watch`: what the console shows, at a terminal. Asks the agent's console for its state, once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from services.errors import InvalidInput, UpstreamUnavailable

Json = dict[str, Any]

TIERS = ("device", "edge", "cloud")
_COLOURS = {"device": "blue", "edge": "yellow", "cloud": "green"}
_STAGES = {"queue": "░", "decode": "▒", "compute": "█", "encode": "▓", "network": "╌"}
_TIMEOUT_SECONDS = 5.0
_EVERY_SECONDS = 1.0
_REQUESTS = 10
_BAR = 34
_SPARKS = "▁▂▃▄▅▆▇█"
_HISTORY = 60
_ANNOUNCED = "give the address that the device agent announces as its console, 127.0.0.1:8000 unless set"


@dataclass(frozen=True, slots=True)
class Watched:
    """The console of one agent, HOST:PORT, and the model to look at; empty: the first."""

    target: str
    model: str = ""

    @property
    def url(self) -> str:
        base = self.target if "://" in self.target else f"http://{self.target}"
        return f"{base.rstrip('/')}/api/state"


async def state(session: aiohttp.ClientSession, watched: Watched) -> Json:
    """What the console shows now. Raises UpstreamUnavailable where none answers, InvalidInput where it refuses."""
    try:
        async with session.get(watched.url, params={"model": watched.model} if watched.model else {}) as reply:
            found: Json = await reply.json()
    except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError, ValueError):
        raise InvalidInput(
            f"what answers at {watched.target} is no console; is it the gRPC port? {_ANNOUNCED}"
        ) from None
    except (aiohttp.ClientError, TimeoutError):
        raise UpstreamUnavailable(f"no console answers at {watched.target}; {_ANNOUNCED}") from None
    if reply.status != 200 or "now" not in found:
        raise InvalidInput(str(found.get("error", f"{watched.target} answered {reply.status}, it is no console")))
    return found


async def once(watched: Watched) -> Json:
    """One look."""
    async with _session() as session:
        return await state(session, watched)


async def watch(watched: Watched, console: Console) -> None:
    """Until it is interrupted; an agent that went away is asked again until it is back."""
    async with _session() as session:
        found = await state(session, watched)
        with Live(shown(found), console=console, auto_refresh=False, screen=console.is_terminal) as live:
            while True:
                await asyncio.sleep(_EVERY_SECONDS)
                try:
                    found = await state(session, watched)
                    live.update(shown(found), refresh=True)
                except (UpstreamUnavailable, InvalidInput):  # it did answer before, so that it is the right address
                    live.update(
                        Group(Text("agent not reachable, trying again", "bold red"), shown(found)), refresh=True
                    )


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS), trust_env=False)


def shown(found: Json) -> Group:
    """Everything in at most 100 columns."""
    now = found["now"]
    return Group(
        _head(found),
        _road(now["tiers"], now["links"]),
        Text.assemble(("plan ", "bold"), (now["plan"]["text"], "bold"), f"   {now['why']}"),
        _network(now["plan"]["stages"], len(found["model"]["split_points"]) - 1),
        _latency(found["history"], now["at"]),
        _candidates(now["candidates"]),
        _requests(found["requests"], [each["name"] for each in found["model"]["exits"]]),
    )


def _head(found: Json) -> Text:
    window = found["now"]["window"]
    return Text.assemble(
        ("Offramp ", "bold"),
        f"{found['model']['name']}   {window['per_second']:.1f} requests/s   median {_ms(window['p50_seconds'])}"
        f"   p95 {_ms(window['p95_seconds'])}   degraded {window['degraded']}   refused {window['refused']}\n",
    )


def _road(tiers: Sequence[Json], links: Sequence[Json]) -> Table:
    table = Table(box=None, pad_edge=False, expand=False)
    for name in ("device", "", "edge", "", "cloud"):
        table.add_column(Text(name, f"bold {_COLOURS.get(name, '')}"), width=None if name else 18, justify="left")
    share = [f"{_percent(tier['share'])} answered here" for tier in tiers]
    rate = [_rate(link["bytes_per_second"]) for link in links]
    rtt = [f"RTT {_ms(link['rtt_seconds'])}" for link in links]
    does = [_does(tier) for tier in tiers]
    table.add_row(does[0], f"── {rate[0]} ──", does[1], f"── {rate[1]} ──", does[2])
    table.add_row(share[0], f"   {rtt[0]}", share[1], f"   {rtt[1]}", share[2])
    return table


def _does(tier: Json) -> str:
    if tier["state"] == "silent":
        return f"unreachable {tier['silent_seconds']:.0f} s"
    if tier["state"] in ("quiet", "unknown"):
        return "not heard of lately" if tier["state"] == "quiet" else "not heard of yet"
    start, end = tier["blocks"] or (0, 0)
    return f"runs {start}:{end}" if end > start else "idle in this plan"


def _network(stages: Iterable[Json], last: int) -> Text:
    """One character a block, in its tier's colour; long networks are shortened."""
    text, scale = Text("network "), min(1.0, 80 / last)
    for stage in stages:
        width = round(stage["end"] * scale) - round(stage["start"] * scale)
        if stage["tier"] != "device":
            text.append(f" {stage['codec']}→ ", "dim")
        text.append("■" * width, _COLOURS[stage["tier"]])
    return text


def _latency(history: Sequence[Json], now: float) -> Text:
    by_second = {each["at"]: each["p50_seconds"] for each in history}
    medians = [by_second.get(int(now) - back) for back in range(_HISTORY, 0, -1)]
    return Text.assemble(f"\nmedian of each of the last {_HISTORY} seconds  ", (sparkline(medians), "bold"), "\n")


def sparkline(values: Sequence[float | None]) -> str:
    """One character each, from nothing to the largest; a blank for None."""
    most = max((value for value in values if value is not None), default=0.0)
    top = len(_SPARKS) - 1
    return "".join(" " if value is None else _SPARKS[round(top * value / most) if most else 0] for value in values)


def _candidates(candidates: Sequence[Json]) -> RenderableType:
    if not candidates:
        return Text("")
    table = Table("", "plan", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("expected", justify="right")
    for each in candidates:
        style = "bold" if each["chosen"] else None
        table.add_row(
            ("● " if each["chosen"] else "  ") + each["name"], each["plan"], _ms(each["seconds"]), style=style
        )
    return table


def _requests(requests: Sequence[Json], exits: Sequence[str]) -> Table:
    where = "where time went, from the door on"
    table = Table("time", "answer", "sure", "left at", where, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("took", justify="right")
    last = requests[-_REQUESTS:][::-1]
    longest = max((each["seconds"] for each in last), default=1.0) or 1.0
    for each in last:
        at = datetime.fromtimestamp(each["at"]).strftime("%H:%M:%S")
        left = exits[max((index for index, count in enumerate(each["exits"]) if count), default=0)]
        degraded = " degraded" if each["degraded"] else ""
        tier = Text(f"{each['tier']}, {left} exit{degraded}", _COLOURS[each["tier"]])
        table.add_row(
            at, Text(each["label"]), f"{each['confidence']:.3f}", tier, _bar(each, longest), _ms(each["seconds"])
        )
    return table


def _bar(request: Json, longest: float) -> Text:
    text, told = Text(), 0.0
    for hop in request["hops"]:
        for stage, mark in _STAGES.items():
            width = round((told + hop[f"{stage}_seconds"]) / longest * _BAR) - round(told / longest * _BAR)
            text.append(mark * width, _COLOURS[hop["tier"]])
            told += hop[f"{stage}_seconds"]
    return text


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.1f} ms"


def _rate(bytes_per_second: float | None) -> str:
    if bytes_per_second is None:
        return "unknown"
    bits = 8 * bytes_per_second
    unit, size = next(((u, s) for u, s in (("Gbit/s", 1e9), ("Mbit/s", 1e6)) if bits >= s), ("kbit/s", 1e3))
    return f"{bits / size:.3g} {unit}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"
