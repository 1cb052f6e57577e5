"""The table of targets, gathered from what the benchmarks wrote. What was not measured is told, not passed over."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import targets
from benchmarks.targets import Row, ratios, row

Json = Mapping[str, Any]

ADDED, MEBIBYTE, SHARE, ALONE = 1.25, 1.3, 0.90, 0.65


@dataclass(frozen=True, slots=True)
class Report:
    """rows: of the table, in its order. missing: what there is no figure for, with the reason. peers: as written."""

    machine: Json
    rows: list[Row]
    missing: dict[str, str]
    peers: Json | None


def gather(folder: Path) -> Report:
    """Reads the files of one run of the benchmarks. Raises FileNotFoundError where not even the machine is known."""
    machine = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    missing: dict[str, str] = {}
    rows: list[Row] = []
    for name, read in SOURCES.items():
        found = _read(folder / f"{name}.json")
        if found is None:
            missing[name] = "not measured"
            continue
        try:
            rows += read(found)
        except (KeyError, ValueError, IndexError) as error:
            missing[name] = f"its file cannot be read: {error!r}"
        missing |= found.get("failed", {})
    peers = _read(folder / "peers.json")
    if peers is None:
        missing["peers"] = "not measured"
    return Report(machine, rows, missing, peers)


def _read(path: Path) -> Json | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def of_hop(found: Json) -> list[Row]:
    """Added tiers by size, and the hop of 1 MiB. Each size has one median of many calls: sizes are the spread."""
    by_size = {each["size"]: each["ratios"] for each in found["results"]}
    added = [ratio["added / bare stream"] for ratio in by_size.values() if "added / bare stream" in ratio]
    large = by_size["1 MiB"]["exchange / bare unary"]
    what = "added pass-through tier, 16 to 150 KiB, over a raw grpc.aio stream"
    return [
        Row(what, "at most", ADDED, max(added), min(added), max(added), note="the worst of the sizes"),
        Row("1 MiB activation hop over raw-bytes gRPC", "at most", MEBIBYTE, large, large, large),
    ]


def of_tiny(found: Json) -> list[Row]:
    rates, (low, middle, high) = found["rates"], found["microseconds"]["exchange"]
    share, unary = ratios(rates["exchange"], rates["bare loop"]), found["microseconds"]["minimal unary"][1]
    alone = "small CNN, tier to tier, 1 caller, over minimal unary grpc.aio"
    note = f"a bare run takes {1e6 / statistics.median(rates['bare loop']):.0f} µs, with {found['width']} channels"
    return [
        row("small CNN, tier to tier, 32 in flight, share of the bare loop", "at least", SHARE, share, note=note),
        Row(alone, "at most", ALONE, middle / unary, low / unary, high / unary),
    ]


def of_tiers(found: Json) -> list[Row]:
    return targets.from_json(found["rows"])


SOURCES: dict[str, Callable[[Json], Sequence[Row]]] = {"hop": of_hop, "tiny": of_tiny, "tiers": of_tiers}
"""How the rows of each file are read."""
