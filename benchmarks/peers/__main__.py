"""Installs other servers of the same networks, and measures them beside ours and beside the bare loop.

Run: ``python -m benchmarks.peers NAME…`` or ``python -m benchmarks.peers all``. The load generator shares the machine
with the servers. Ratios are to the bare loop of the same round: a caller's p50 over the run itself, and what 32
callers get over what one thread (a short network) or four (a long one) run without a server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import subjects
from benchmarks.load import loads
from benchmarks.peers import rounds
from benchmarks.peers.catalogue import PEERS, Peer
from benchmarks.peers.environment import Installed, PeerError, install
from benchmarks.peers.rounds import CROWD, NETWORKS, Length, Measured


def chosen(names: list[str]) -> list[Peer]:
    """The peers of those names, ours always among them, in the order of the catalogue."""
    wanted = {peer.name for peer in PEERS} if "all" in names else {"offramp", *names}
    return [peer for peer in PEERS if peer.name in wanted]


def installed(peers: list[Peer]) -> tuple[list[Installed], list[Measured]]:
    """Those that can be; and for the others, why they cannot."""
    found: list[Installed] = []
    missing: list[Measured] = []
    for peer in peers:
        try:
            found.append(install(peer))
        except PeerError as error:
            absent = (
                Measured(v.name, d, v.setting, reason=f"not installed: {error}")
                for v in peer.variants
                for d in v.drivers
            )
            missing.extend(absent)
    return found, missing


async def measure(peers: list[Installed], folder: Path, length: Length) -> list[Measured]:
    async with loads() as running:
        return await rounds.measure(running, peers, subjects.write(folder / "networks", NETWORKS), folder, length)


def _shown(found: dict[str, Any]) -> Table:
    table = Table(title=f"Servers of the same networks, one caller and {CROWD}", title_justify="left")
    for column in ("server", "asked by", "network", "p50 us", "p99 us", "over bare", "requests/s", "share of bare"):
        table.add_column(column, justify="right" if column not in ("server", "asked by", "network") else "left")
    for one in found["measured"]:
        for name, row in one["over_bare"].items():
            middles = {key: values[1] for key, values in row.items()}
            times = (f"{middles['p50_us']:,.0f}", f"{middles['p99_us']:,.0f}", f"{middles['latency']:.2f}x")
            rates = (f"{middles['rate']:,.0f}", f"{middles['share']:.3f}")
            table.add_row(one["server"], one["driver"], name, *times, *rates)
    return table


def main() -> None:
    """Installs, measures in rounds, prints a table, writes JSON."""
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*names, "all"], help="whom to measure")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--rounds", type=int, default=Length().rounds, help="starts of each server")
    parser.add_argument("--seconds", type=float, default=Length().seconds, help="length of a window")
    arguments = parser.parse_args()
    length = Length(arguments.rounds, arguments.seconds)
    ready, missing = installed(chosen(arguments.names))
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(measure(ready, Path(folder), length))
    found = rounds.as_json([*measured, *missing], length)
    Console(width=140).print(_shown(found))
    for one in found["measured"]:
        if one["reason"]:
            Console().print(f"{one['server']}, asked by {one['driver']}: {one['reason']}", style="red", markup=False)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
