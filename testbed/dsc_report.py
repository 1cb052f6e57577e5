"""One network's maps: measured, drawn, and summed up for people and for scripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import dsc_figures
from testbed.dsc import BATCHES, PAPER_RATES, WIDE_RATES, Findings, Measured, end_to_end, findings
from testbed.dsc_times import MEASURED_BATCHES, REPEATS, Stopwatch, Tick, measure

_RATES = {"1 to 127": PAPER_RATES, "0.01 to 127, log": WIDE_RATES}
_BITS = (8, 32)
"""What a split sends for one number: quantised as our codecs do, or as it is."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What was found on one grid of rates, in MB/s, where a split sends so many bits for one number."""

    rates: str
    bits: int
    findings: Findings


@dataclass(frozen=True, slots=True)
class Report:
    """One network: its measured times, its grids, its pictures."""

    measured: Measured
    rounds: int
    spread: float
    slowdown: float
    grids: list[Grid]
    pictures: list[Path]

    @property
    def model(self) -> str:
        return self.measured.model

    def as_json(self) -> dict[str, Any]:
        """Times in milliseconds by batch size 1 to 15, and every grid's shares and gains by option."""
        found = self.measured
        return {
            "model": self.model,
            "slowdown": self.slowdown,
            "threads": 1,
            "rounds": self.rounds,
            "spread": self.spread,
            "measured_batches": MEASURED_BATCHES,
            "batches": BATCHES,
            "blocks": found.blocks,
            "ratios": found.ratios,
            "whole_ms": (1e3 * found.whole).tolist(),
            "head_ms": (1e3 * found.heads).tolist(),
            "tail_ms": (1e3 * found.tails).tolist(),
            "grids": [_grid_json(grid) for grid in self.grids],
            "claim": "20-30 % over static splits (the paper's, not measured here)",
        }


def report(name: str, out: Path, slowdown: float, seconds: float, tick: Tick) -> Report:
    """Measures the network `name` for about `seconds`, and draws its maps to `out`."""
    measured, watch = measure(name, seconds, tick)
    grids = [
        Grid(name, bits, findings(measured.options, end_to_end(measured, slowdown, rates, bits / 8)))
        for name, rates in _RATES.items()
        for bits in _BITS
    ]
    pictures = _draw(measured, slowdown, out)
    return Report(measured, _rounds(watch), _spread(watch), slowdown, grids, pictures)


def _draw(measured: Measured, slowdown: float, out: Path) -> list[Path]:
    times = {bits: end_to_end(measured, slowdown, WIDE_RATES, bits / 8) for bits in _BITS}
    title = f"{measured.model}, device {slowdown:g}x slower than the server"
    regimes, saved = out / f"{measured.model}-regimes.png", out / f"{measured.model}-gains.png"
    panels = {f"a split sends {bits} bits an element": values for bits, values in times.items()}
    dsc_figures.regime_map(panels, measured.options, WIDE_RATES, title, regimes)
    dsc_figures.gain_maps(times[8], measured.options, WIDE_RATES, f"{title}: gain of choosing, 8 bits", saved)
    return [regimes, saved]


def _grid_json(grid: Grid) -> dict[str, Any]:
    found = grid.findings
    return {
        "rates_megabytes_per_second": grid.rates,
        "bits": grid.bits,
        "splits_optimal_somewhere": found.splits_optimal_somewhere,
        "split_share": found.split_share,
        "gain_over_static_splits": found.gain_over_splits,
        "optimal_share": dict(zip(found.options, found.optimal_share, strict=True)),
        "gain_over": dict(zip(found.options, found.gain, strict=True)),
    }


def _rounds(watch: Stopwatch) -> int:
    return min(len(taken) // REPEATS[batch] for (_, batch), taken in watch.taken.items())


def _spread(watch: Stopwatch) -> float:
    return max(watch.spread(segment) for segment, _ in watch.taken)
