"""Pictures of the benchmarks: every target and how far from it we are, and other servers beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.found import Json
from benchmarks.targets import Row

_MET, _MISSED, _INK, _GREY, _OURS = "#2a9d8f", "#e76f51", "#264653", "#8d99a6", "#2a9d8f"
_DPI = 90


def targets_plot(rows: Sequence[Row], path: Path) -> None:
    """How much of what is allowed each row takes: 1 is the target, to the left of it is better."""
    figure = Figure(figsize=(9, 0.42 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    for at, each in enumerate(reversed(rows)):
        middle, *ends = (taken(each, value) for value in (each.measured, each.low, each.high))
        colour = _MET if each.met else _MISSED
        axes.plot(ends, (at, at), color=colour, linewidth=3, alpha=0.4, solid_capstyle="round")
        axes.plot(middle, at, "o", color=colour)
    axes.axvline(1, color=_INK, linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [each.what for each in reversed(rows)], fontsize=8)
    axes.set(xscale="log", xlabel="of the target (log scale): left of the line is met")
    _numbered(axes)
    _plain(axes)
    figure.savefig(path, dpi=_DPI)


def taken(each: Row, value: float) -> float:
    """`value` over the target, or the other way round where more is better."""
    return value / each.target if each.bound == "at most" else each.target / value


def peers_plot(found: Json, network: str, path: Path) -> None:
    """One caller's p50 over the bare run, and a crowd's share of the bare loop."""
    shown = [one for one in found["measured"][1:] if network in one["over_bare"]]
    names = [f"{one['server']} ({one['driver']})" for one in shown]
    figure = Figure(figsize=(9, 0.36 * len(shown) + 1.3), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, key, label in (
        (left, "latency", "1 caller: p50 over the run"),
        (right, "share", "share of the bare loop"),
    ):
        _bars(axes, [one["over_bare"][network][key] for one in shown], [one["server"] == "offramp" for one in shown])
        axes.set(xscale="log", xlabel=label)
        _numbered(axes)
        _plain(axes)
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.invert_yaxis()
    figure.suptitle(f"{network}, {found['crowd']} callers on the right; log scales", fontsize=10)
    figure.savefig(path, dpi=_DPI)


def _numbered(axes: Axes) -> None:
    """Plain numbers below a log axis, few enough to be read."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _bars(axes: Axes, spreads: Sequence[Sequence[float]], ours: Sequence[bool]) -> None:
    middles = [middle for _, middle, _ in spreads]
    errors: Any = [[m - low for low, m, _ in spreads], [high - m for _, m, high in spreads]]
    colours = [_OURS if mine else _GREY for mine in ours]
    axes.barh(range(len(spreads)), middles, xerr=errors, color=colours, ecolor=_INK, height=0.65)
    for at, middle in enumerate(middles):
        axes.annotate(
            f"{middle:.3g}",
            (middle, at),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=7,
            color="white",
        )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
