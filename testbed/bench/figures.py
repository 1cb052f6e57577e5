"""The plots of the report, as PNG bytes with a name."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from services.domain import Plan
from testbed.bench.policies import LATE_ORACLE, NOW_ORACLE, ORACLE, OURS
from testbed.bench.results import ORACLE_MARGIN
from testbed.bench.statistics import Runs
from testbed.scales import plain_numbers
from testbed.traces import Rate

_INK = "#264653"
_COLOURS = {
    OURS: "#e76f51",
    ORACLE: "#264653",
    NOW_ORACLE: "#5c8f9b",
    LATE_ORACLE: "#8ab17d",
    "best-static": "#2a9d8f",
    "device": "#8d99a6",
    "cloud-raw": "#6d597a",
    "cloud-jpeg": "#457b9d",
    "dsc": "#e9c46a",
    "exits-fixed": "#b56576",
}
_PLANS = ("#8d99a6", "#457b9d", "#2a9d8f", "#e9c46a", "#e76f51", "#6d597a", "#b56576", "#264653", "#a8dadc", "#f4a261")
_MOST_POINTS = 20000
_RATIOS = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.35, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7, 10)
_FAR_RATIOS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_as_written = rc_context({"text.parse_math": False})
"""Names of traces are drawn as they are: what is between two dollar signs is no formula."""
_WIDE = 6
"""From so many times the least ratio on, the numbers of the first list would lie over one another."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One plot. name: what it shows, for whoever cannot see it."""

    name: str
    png: bytes


@_as_written
def latencies(traces: Mapping[str, Mapping[str, Runs]], title: str) -> Picture:
    """The share of requests answered within so many milliseconds, for each policy, one panel for each trace."""
    columns = min(4, len(traces))
    rows = -(-len(traces) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * rows + 0.6), layout="constrained")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for (name, found), axes in zip(traces.items(), panels, strict=False):
        for policy, runs in found.items():
            seconds = np.sort(runs.seconds)[:: max(1, len(runs) // _MOST_POINTS)]
            wide = 2.2 if policy == OURS else 1.1
            share = np.linspace(0, 1, len(seconds))
            axes.plot(1000 * seconds, share, color=_COLOURS.get(policy, _INK), linewidth=wide, label=policy)
        axes.set(xscale="log", ylim=(0, 1))
        plain_numbers(axes.xaxis)
        axes.set_title(_short(name), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels:
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 * columns, fontsize=9, frameon=False)
    figure.suptitle(f"{title}: share answered within so many ms", fontsize=11)
    return Picture(f"Latency distributions: {title}", _png(figure))


@_as_written
def standing(ratios: Mapping[str, Mapping[str, float]], title: str) -> Picture:
    """How each policy stands, a row for each trace; shaded: within 5 % of the oracle.

    ratios: mean latency over the oracle's, by trace and policy.
    """
    figure = Figure(figsize=(8.5, 1.4 + 0.3 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(1 / ORACLE_MARGIN, ORACLE_MARGIN, color="#e9ecef")
    for policy in dict.fromkeys(policy for found in ratios.values() for policy in found if policy != ORACLE):
        rows = [row for row, found in enumerate(ratios.values()) if policy in found]
        over = [found[policy] for found in ratios.values() if policy in found]
        size, above = (70, 3) if policy == OURS else (28, 2)
        colour = _COLOURS.get(policy, _INK)
        axes.scatter(over, rows, s=size, zorder=above, color=colour, label=policy, alpha=0.9)
    axes.set(xscale="log", xlabel="mean latency over the oracle's; shaded: within 5 % of it")
    axes.set_title(title, fontsize=11)
    left, right = axes.get_xlim()
    axes.set_xticks([tick for tick in (_RATIOS if right < _WIDE * left else _FAR_RATIOS) if left <= tick <= right])
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(ratios)), [_short(name, 46) for name in ratios], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", color="#e9ecef")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, fontsize=9, frameon=False)
    return Picture(f"Standing over the oracle: {title}", _png(figure))


@_as_written
def timeline(rate: Rate, start: float, end: float, runs: Mapping[str, Runs], title: str) -> Picture:
    """Over one turn: the rate of the link, the plan of each of our requests, and latencies, others' for comparison."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.2, 2))
    step = max(0.25, (end - start) / 2000)
    times = np.arange(start, end, step)
    top.plot(times, [8e-6 * rate.capacity(t, t + step) / step for t in times.tolist()], color=_INK, linewidth=1)
    top.set(ylabel="uplink, Mbit/s", yscale="symlog", title=title)
    plain_numbers(top.yaxis)
    names = _plan_names([found.plans[i] for found in runs.values() for i in _first(found)])
    for policy, found in runs.items():
        at = [found.at[i] for i in _first(found)]
        level = [names[str(found.plans[i])] for i in _first(found)]
        milliseconds = [1000 * found.seconds[i] for i in _first(found)]
        colour, size = _COLOURS.get(policy, _INK), 5.0 if policy == OURS else 2.0
        middle.plot(at, level, ".", color=colour, markersize=size, label=policy)
        bottom.plot(at, milliseconds, ".", color=colour, markersize=size, label=policy, alpha=0.6)
    middle.set_yticks(range(len(names)), [_short(name, 46) for name in names], fontsize=7)
    bottom.set(ylabel="latency, ms", xlabel="seconds", yscale="log")
    plain_numbers(bottom.yaxis)
    figure.legend(*bottom.get_legend_handles_labels(), loc="outside lower center", fontsize=9, ncols=4, frameon=False)
    for axes in (top, middle, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    return Picture(f"Timeline: {title}", _png(figure))


@_as_written
def regimes(
    rates: Sequence[float], batches: Sequence[int], best: Sequence[Sequence[Plan | None]], title: str
) -> Picture:
    """The best plan at each rate (bytes per second) and batch size; `best` is indexed by batch, then rate."""
    shown = [[_kind(plan) for plan in row] for row in best]
    names = list(dict.fromkeys(name for row in shown for name in row))
    table = np.array([[names.index(name) for name in row] for row in shown])
    colours = [_PLANS[i % len(_PLANS)] for i in range(len(names))]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    x, y = 8e-6 * np.array(rates), np.arange(len(batches))
    axes.pcolormesh(x, y, table, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(names) - 0.5, shading="nearest")
    axes.set(xscale="log", xlabel="uplink, Mbit/s", ylabel="batch size", title=title)
    plain_numbers(axes.xaxis)
    axes.set_yticks(y, [str(batch) for batch in batches])
    for name, colour in zip(names, colours, strict=True):
        axes.plot([], [], "s", color=colour, label=name)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return Picture(f"Regime map: {title}", _png(figure))


def _kind(plan: Plan | None) -> str:
    return "none" if plan is None else str(plan)


def _first(runs: Runs) -> list[int]:
    """The requests of the first turn: turns lie over one another in time."""
    return next(iter(runs.turns), [])


def _plan_names(plans: Sequence[Plan]) -> dict[str, int]:
    """Plans in use, by where they cut, from the input on."""
    used = {plan.stages: plan for plan in plans}
    order = sorted(used.values(), key=lambda plan: [stage.segment.end for stage in plan.stages])
    return {str(plan): level for level, plan in enumerate(order)}


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _png(figure: Figure) -> bytes:
    with io.BytesIO() as buffer:
        figure.savefig(buffer, dpi=110, format="png")
        return buffer.getvalue()
