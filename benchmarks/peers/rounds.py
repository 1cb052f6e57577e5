"""Rounds over all servers: each is started, asked by one caller and by a crowd, and stopped, A B C A B C.

The bare loop comes first in each round, and what a round finds is divided by the bare loop of the same round.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.load import BARE, Found, LoadError, Loads, Window
from benchmarks.peers.catalogue import CORES, Started, Variant
from benchmarks.peers.environment import Installed, PeerError, free_ports, running, said
from benchmarks.subjects import Subject
from benchmarks.targets import ratios, spread

CROWD = 32
NETWORKS = ("tiny", "mobilenet_v2")
_READY_SECONDS = 90.0
_POLL_SECONDS = 0.2


@dataclass(slots=True)
class Measured:
    """One server asked in one way, or the bare loop with its threads: windows by network, one for each round.

    reason: why there are no more of them.
    """

    server: str
    driver: str
    setting: str
    versions: dict[str, str] = field(default_factory=dict)
    alone: dict[str, list[Found]] = field(default_factory=dict)
    crowd: dict[str, list[Found]] = field(default_factory=dict)
    reason: str = ""

    def add(self, network: str, alone: Found, crowd: Found) -> None:
        self.alone.setdefault(network, []).append(alone)
        self.crowd.setdefault(network, []).append(crowd)


@dataclass(frozen=True, slots=True)
class Length:
    """How many rounds, and seconds of a window."""

    rounds: int = 3
    seconds: float = 0.8


async def measure(
    loads: Loads, installed: Sequence[Installed], subjects: Mapping[str, Subject], folder: Path, length: Length
) -> list[Measured]:
    """Everybody, in turn. The first is the bare loop, whose crowd is as many threads as there are cores."""
    bare = Measured(BARE, BARE, f"1 thread and {CORES}")
    variants = [(each, variant) for each in installed for variant in each.peer.variants]
    found = {
        (variant.name, driver): Measured(variant.name, driver, variant.setting, each.versions)
        for each, variant in variants
        for driver in variant.drivers
    }
    for number in range(length.rounds):
        for name, subject in subjects.items():
            bare.add(name, *[await _bare(loads, subject, threads, length) for threads in (1, CORES)])
        for each, variant in variants:
            mine = [one for driver in variant.drivers if not (one := found[variant.name, driver]).reason]
            began = time.monotonic()
            try:
                await _one(loads, each, variant, subjects, folder / f"{number}-{variant.name}", mine, length)
            except PeerError as error:
                for one in mine:
                    one.reason = str(error)
            said = " ".join(f"({one.driver}: {one.reason})" for one in mine if one.reason)
            took = time.monotonic() - began
            print(f"round {number + 1}: {variant.name} {took:.0f} s {said}", file=sys.stderr, flush=True)
    return [bare, *found.values()]


async def _bare(loads: Loads, subject: Subject, threads: int, length: Length) -> Found:
    return await loads.measure(Window(BARE, str(subject.path), "", threads, length.seconds))


async def _one(
    loads: Loads,
    installed: Installed,
    variant: Variant,
    subjects: Mapping[str, Subject],
    folder: Path,
    mine: Sequence[Measured],
    length: Length,
) -> None:
    """One start of one server; who could not ask it notes why. Raises PeerError where it does not serve."""
    if not mine:
        return
    port, *spare = free_ports(3)
    networks = next(iter(subjects.values())).path.parent
    started = Started(port, (spare[0], spare[1]), subjects, networks, folder)
    address = f"127.0.0.1:{port}"
    async with running(installed, variant, started):
        for subject in subjects.values():
            await until_ready(loads, Window(variant.drivers[0], str(subject.path), address, 1, 0.2), started)
        for subject in subjects.values():
            for one in mine:
                await _asked(loads, one, subject, address, length)


async def _asked(loads: Loads, one: Measured, subject: Subject, address: str, length: Length) -> None:
    """By one caller, then by the crowd."""
    try:
        windows = (Window(one.driver, str(subject.path), address, n, length.seconds) for n in (1, CROWD))
        alone, crowd = [await loads.measure(window) for window in windows]
        one.add(subject.name, alone, crowd)
    except LoadError as error:
        one.reason = str(error)


async def until_ready(loads: Loads, window: Window, started: Started) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            await loads.measure(window)
            return
        except LoadError as error:
            if time.monotonic() > deadline:
                raise PeerError(f"did not serve within {_READY_SECONDS:g} s: {error}; {said(started)}") from None
        await asyncio.sleep(_POLL_SECONDS)


def as_json(found: Sequence[Measured], length: Length) -> dict[str, Any]:
    """Windows and, for each network, medians with spread: ratios to the bare loop of the same round."""
    bare = found[0]
    entries = [asdict(each) | {"over_bare": _compared(each, bare)} for each in found]
    return {"crowd": CROWD, "cores": CORES, **asdict(length), "measured": entries}


def _compared(one: Measured, bare: Measured) -> dict[str, object]:
    """latency: p50 of one caller over the bare run. share: of the bare loop, one thread for what takes under 1 ms."""
    compared: dict[str, object] = {}
    for name, alone in one.alone.items():
        rounds = len(alone)
        runs = bare.alone[name][:rounds]
        short = statistics.median(run.p50_us for run in runs) < 1000
        limit = runs if short else bare.crowd[name][:rounds]
        compared[name] = {
            "latency": spread(ratios([each.p50_us for each in alone], [each.p50_us for each in runs])),
            "share": spread(ratios([each.rate for each in one.crowd[name]], [each.rate for each in limit])),
            "p50_us": spread([each.p50_us for each in alone]),
            "p99_us": spread([each.p99_us for each in alone]),
            "rate": spread([each.rate for each in one.crowd[name]]),
        }
    return compared
