"""One tier against the bare run and against the least a server can be: windows of all of them take turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks import subjects
from benchmarks.load import BARE, Found, LoadError, Loads, Window, loads
from benchmarks.peers.catalogue import CORES, PEERS, Started
from benchmarks.peers.environment import PeerError, free_ports, install, running
from benchmarks.peers.rounds import CROWD, NETWORKS, until_ready
from benchmarks.subjects import Subject
from benchmarks.targets import Row, ratios, row

TIER_LATENCY, TIER_SHARE = 1.25, 0.83
DOOR_LATENCY, DOOR_SHARE = 1.15, 0.90
Windows = dict[str, list[Found]]


async def rows(folder: Path, rounds: int, seconds: float) -> list[Row]:
    """MobileNetV2 through one tier; the public door with the small CNN, asked for the scores alone."""
    found = subjects.write(folder / "networks", NETWORKS)
    async with loads() as load, _both(found, folder, load) as (ours, theirs):
        tiny, large = (str(found[name].path) for name in NETWORKS)
        tier = {
            "run": Window(BARE, large, "", 1, seconds),
            "tier": Window("exchange", large, ours, 1, seconds),
            "runs": Window(BARE, large, "", CORES, seconds),
            "crowd": Window("exchange", large, ours, CROWD, seconds),
        }
        door = {
            "theirs": Window("oip", tiny, theirs, 1, seconds),
            "ours": Window("oip", tiny, ours, 1, seconds),
            "their crowd": Window("oip", tiny, theirs, CROWD, seconds),
            "our crowd": Window("oip", tiny, ours, CROWD, seconds),
        }
        return [*_tier(await in_turn(load, tier, rounds)), *_door(await in_turn(load, door, rounds))]


async def in_turn(load: Loads, windows: Mapping[str, Window], rounds: int) -> Windows:
    """Every window once in each round, after a round that does not count."""
    found: Windows = {name: [] for name in windows}
    for number in range(rounds + 1):
        for name, window in windows.items():
            done = await load.measure(window)
            if number:
                found[name].append(done)
    return found


def _tier(found: Windows) -> list[Row]:
    alone = ratios(_p50(found["tier"]), _p50(found["run"]))
    crowd = ratios(_rate(found["crowd"]), _rate(found["runs"]))
    what = "MobileNetV2 through one tier"
    return [
        row(f"{what}, 1 caller, over the bare run", "at most", TIER_LATENCY, alone),
        row(f"{what}, {CROWD} callers, share of {CORES} bare threads", "at least", TIER_SHARE, crowd),
    ]


def _door(found: Windows) -> list[Row]:
    alone = ratios(_p50(found["ours"]), _p50(found["theirs"]))
    crowd = ratios(_rate(found["our crowd"]), _rate(found["their crowd"]))
    what, note = "public door, small CNN", "tritonclient, unary, against a minimal grpc.aio server; scores alone"
    return [
        row(f"{what}, 1 caller, over minimal grpc.aio", "at most", DOOR_LATENCY, alone, note=note),
        row(f"{what}, {CROWD} callers, share of minimal grpc.aio", "at least", DOOR_SHARE, crowd, note=note),
    ]


@asynccontextmanager
async def _both(found: Mapping[str, Subject], folder: Path, load: Loads) -> AsyncIterator[tuple[str, str]]:
    """Ours and the minimal server, both running; their addresses. Raises PeerError."""
    addresses = []
    async with AsyncExitStack() as stack:
        for peer in PEERS[:2]:
            port, *spare = free_ports(3)
            started = Started(port, (spare[0], spare[1]), found, folder / "networks", folder / peer.name)
            await stack.enter_async_context(running(install(peer), peer.variants[0], started))
            for subject in found.values():
                await until_ready(load, Window("oip", str(subject.path), f"127.0.0.1:{port}", 1, 0.2), started)
            addresses.append(f"127.0.0.1:{port}")
        yield addresses[0], addresses[1]


def _p50(found: list[Found]) -> list[float]:
    return [each.p50_us for each in found]


def _rate(found: list[Found]) -> list[float]:
    return [each.rate for each in found]


ERRORS = (PeerError, LoadError)
"""What `rows` raises where a server does not serve."""
