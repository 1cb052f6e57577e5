"""What tiers cost beyond the network they run: the targets that have no benchmark of their own.

Run: ``python -m benchmarks.tiers [NAME…] [--json FILE]``. Every figure is a ratio of things that took turns in one run,
or stands beside the machine that it was measured on.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import crowd, end_to_end, overhead, served, startup, targets
from benchmarks.load import LoadError
from benchmarks.peers.environment import PeerError
from benchmarks.targets import Row
from services import process
from services.errors import OfframpError

Measure = Callable[[Path], Awaitable[list[Row]]]

PARTS: dict[str, Measure] = {
    "served": lambda folder: served.rows(folder, rounds=5, seconds=0.8),
    "end to end": lambda folder: end_to_end.rows(folder, rounds=9, runs=10),
    "overhead": lambda folder: overhead.rows(folder, rounds=9, requests=300),
    "crowd": lambda folder: crowd.rows(folder, periods=2),
    "start-up": lambda folder: startup.rows(folder, starts=5),
}
"""By name, each with how much of it is measured; all of them take about four minutes."""


async def measure(names: list[str], folder: Path) -> tuple[list[Row], dict[str, str]]:
    """The rows of the parts that are named, and why others could not be had."""
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for name in names:
        began = time.monotonic()
        try:
            rows.extend(await PARTS[name](folder / name.replace(" ", "-")))
        except (OfframpError, PeerError, LoadError, OSError, ValueError) as error:
            failed[name] = f"{type(error).__name__}: {error}"
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{name}: {failed.get(name, took)}", file=sys.stderr, flush=True)
    return rows, failed


def shown(rows: list[Row]) -> Table:
    table = Table(title="Targets", title_justify="left")
    for column in ("what", "target", "measured (spread)", "met"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for each in rows:
        unit = f" {each.unit}" if each.unit else ""
        bound = f"{'≤' if each.bound == 'at most' else '≥'} {each.target:g}{unit}"
        measured = f"{each.measured:.3g}{unit} ({each.low:.3g} to {each.high:.3g})"
        table.add_row(each.what, bound, measured, "[green]yes" if each.met else "[red]no")
    return table


def main() -> int:
    """Measures, prints a table, writes JSON. Exit code 1 where something could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiers", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PARTS, []], help="what to measure; none: everything")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    process.tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        rows, failed = asyncio.run(measure(arguments.names or list(PARTS), Path(folder)))
    Console(width=150).print(shown(rows))
    if arguments.json:
        targets.write(arguments.json, rows, failed=failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
