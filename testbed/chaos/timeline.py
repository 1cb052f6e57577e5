"""A picture of a chaos run: each request by when it was sent and how long it took, under the faults of that time."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from services.domain import Tier
from testbed.chaos.history import Ending, Event, History, Record
from testbed.chaos.schedule import Action, Target
from testbed.scales import plain_numbers

_TIERS = {Tier.DEVICE: "#2a9d8f", Tier.EDGE: "#e9c46a", Tier.CLOUD: "#264653"}
_DEGRADED, _FAILED, _CANCELLED = "#e76f51", "#b00020", "#8d99a6"
_FAULTS = {
    Action.KILL: "#b00020",
    Action.RESTART: "#d1495b",
    Action.DRAIN: "#edae49",
    Action.PAUSE: "#66508f",
    Action.CUT: "#264653",
    Action.SLOW: "#8d99a6",
    Action.FLAP: "#57b894",
}
_THIN = 0.002
"""Of the whole run: what took less would not be seen."""


def timeline_figure(history: History, title: str, path: Path) -> None:
    """Above: requests, coloured by who answered. Below: what was done to whom."""
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for name, colour, marker, size, records in _groups(history.records):
        if records:
            seconds = [1000 * each.seconds for each in records]
            top.scatter([r.at for r in records], seconds, s=size, c=colour, marker=marker, label=name, linewidths=0.6)
    for event in history.events:
        top.axvspan(event.began, event.ended, color=_FAULTS[event.action], alpha=0.12, linewidth=0)
    top.set(yscale="log", ylabel="answered after, ms", title=textwrap.fill(title, 110))
    plain_numbers(top.yaxis)
    figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=6, markerscale=1.5)
    _bars(bottom, history.events)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _groups(records: Sequence[Record]) -> list[tuple[str, str, str, int, list[Record]]]:
    answered = [r for r in records if r.ending is Ending.ANSWERED]
    whole = {tier: [r for r in answered if not r.reason and max(r.answers[-1].tiers) == tier] for tier in Tier}
    return [
        *((f"{tier.label} answered", _TIERS[tier], ".", 10, whole[tier]) for tier in Tier),
        ("degraded", _DEGRADED, "x", 22, [r for r in answered if r.reason]),
        ("failed", _FAILED, "X", 60, [r for r in records if r.ending is Ending.FAILED]),
        ("left by its client", _CANCELLED, "+", 20, [r for r in records if r.ending is Ending.CANCELLED]),
    ]


def _bars(axes: Axes, events: Sequence[Event]) -> None:
    rows = {target: row for row, target in enumerate(reversed(Target))}
    least = max((event.ended for event in events), default=0.0) * _THIN
    for event in events:
        row, seconds = rows[event.target], max(event.ended - event.began, least)
        axes.barh(row, seconds, left=event.began, color=_FAULTS[event.action], height=0.7)
    seen = [action for action in Action if any(event.action is action for event in events)]
    patches = [Patch(color=_FAULTS[action], label=action) for action in seen]
    axes.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.45), ncols=7, frameon=False, fontsize=9)
    axes.set_yticks(list(rows.values()), list(rows))
    axes.set(xlabel="seconds since the run began", ylim=(-0.6, len(rows) - 0.4))
