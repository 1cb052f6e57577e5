"""What a run found, in numbers: `summary.json` and the table at the end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from services.bundle import Manifest
from services.domain import Tier
from testbed.load import Outcome
from testbed.local import TestbedSettings

_BITS = re.compile(r"\bint(\d)")
HOPS = {Tier.DEVICE: "device_edge", Tier.EDGE: "edge_cloud"}


def summarise(
    outcomes: Sequence[Outcome], full_accuracy: float, sample_bytes: int, settings: TestbedSettings
) -> dict[str, Any]:
    """The figures of a run, ready for JSON. `sample_bytes` is the size of one raw input."""
    answered = [o for o in outcomes if o.prediction is not None]
    plans = sorted({o.prediction.plan for o in answered if o.prediction})
    return {
        "requests": len(outcomes),
        "failed": len(outcomes) - len(answered),
        "degraded": sum(o.prediction.degraded for o in answered if o.prediction),
        "accuracy": _share(sum(o.right for o in outcomes), len(outcomes)),
        "full_model_accuracy": full_accuracy,
        "answered_at": {tier.label: len(_at(answered, tier)) for tier in Tier},
        "bytes_sent": {name: _bytes_up(answered, tier) for tier, name in HOPS.items()},
        "raw_input_bytes": sample_bytes * len(outcomes),
        "latency_ms": _latency(answered) | {tier.label: _latency(_at(answered, tier)) for tier in Tier},
        "explained": explained(answered),
        "plan": plans[0] if len(plans) == 1 else plans,
        "seed": settings.seed,
        "slowdown": {"device": settings.device_slowdown, "edge": settings.edge_slowdown, "cloud": 1.0},
        "bundle": str(settings.bundle),
        "links": {
            "device_edge": {"rate": settings.device_edge.rate, "rtt": settings.device_edge.rtt},
            "edge_cloud": {"rate": settings.edge_cloud.rate, "rtt": settings.edge_cloud.rtt},
            "device_edge_then": {"rate": settings.then.rate, "rtt": settings.then.rtt} if settings.then else None,
        },
    }


def explained(outcomes: Sequence[Outcome]) -> float | None:
    """Share of the callers' waiting that the traces account for, over all requests."""
    waited = sum(o.seconds for o in outcomes)
    traced = sum(o.prediction.trace["seconds"] for o in outcomes if o.prediction and o.prediction.trace)
    return round(traced / waited, 4) if waited else None


def table(summary: dict[str, Any]) -> Table:
    """The summary as a person reads it: one row per tier."""
    result = Table(title="Where answers came from", title_justify="left")
    for column in ("tier", "answers", "share", "p50 ms", "p95 ms", "p99 ms", "sent up, bytes"):
        result.add_column(column, justify="left" if column == "tier" else "right")
    sent = {"device": summary["bytes_sent"]["device_edge"], "edge": summary["bytes_sent"]["edge_cloud"]}
    total = max(summary["requests"], 1)
    for tier, count in summary["answered_at"].items():
        times = (_shown(summary["latency_ms"][tier][p]) for p in ("p50", "p95", "p99"))
        result.add_row(tier, str(count), f"{count / total:.1%}", *times, f"{sent[tier]:,}" if tier in sent else "")
    overall = (_shown(summary["latency_ms"][p]) for p in ("p50", "p95", "p99"))
    result.add_section()
    answered = sum(summary["answered_at"].values())
    result.add_row("all", str(answered), f"{answered / total:.1%}", *overall, f"{sum(sent.values()):,}")
    return result


def plans_table(summary: dict[str, Any]) -> Table:
    """Which plan was in force from when on, and whether it kept its promise."""
    result = Table(title="How the plan changed", title_justify="left")
    for column in ("from s", "plan", "requests", "expected ms", "came ms"):
        result.add_column(column, justify="left" if column == "plan" else "right", overflow="fold")
    for plan in summary["plans"]:
        numbers = (str(plan["requests"]), _shown(plan["expected_ms"]), _shown(plan["realised_ms"]))
        result.add_row(f"{plan['at_seconds']:.1f}", plan["plan"], *numbers)
    return result


def sentence(summary: dict[str, Any], out: Path) -> str:
    """How right and how fast it was, and where the rest is written."""
    ratio = summary["oracle_ratio"]
    against = "" if ratio is None else f", {ratio:.2f} times the latency expected of an oracle's plans"
    files = ", ".join(str(out / name) for name in ("summary.json", "plans.png", "exits.png", "journey.png"))
    return (
        f"accuracy {summary['accuracy']:.2%} (whole network {summary['full_model_accuracy']:.2%}), "
        f"{summary['failed']} failed{against}\nwrote {files}"
    )


def hints(summary: dict[str, Any], manifest: Manifest, settings: TestbedSettings) -> list[str]:
    """What a reader of the tables may wonder about: a tier that answered nothing, and few bits for each value."""
    if settings.splits is not None:
        return []
    size = summary["raw_input_bytes"] // max(summary["requests"], 1)
    idle = [tier for tier, count in summary["answered_at"].items() if not count]
    found = []
    if idle and summary["plans"]:
        splits = ",".join(str(spec.split_point) for spec in manifest.exits[:-1][:2])
        example = f"; --splits {splits} has all three answer" if splits.count(",") else ""
        found.append(
            f"Nothing was answered at the {' and the '.join(idle)}: for a network and inputs so small ({size:,} bytes "
            f"each), no plan that goes there is expected to be quicker{example}"
        )
    bits = sorted({int(each) for plan in summary["plans"] for each in _BITS.findall(plan["plan"])})
    if bits:
        found.append(f"int{bits[0]}: {bits[0]} bits for each value, as few as the accuracy expected of plans allows")
    return found


def _at(outcomes: Sequence[Outcome], tier: Tier) -> list[Outcome]:
    return [o for o in outcomes if o.prediction and o.prediction.tier is tier]


def _bytes_up(outcomes: Sequence[Outcome], tier: Tier) -> int:
    traces = [o.prediction.trace for o in outcomes if o.prediction and o.prediction.trace]
    return sum(hop["bytes_up"] for trace in traces for hop in trace["hops"] if hop["tier"] == tier.label)


def _latency(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """p50, p95 and p99 in milliseconds; None where nothing was answered."""
    if not outcomes:
        return {"p50": None, "p95": None, "p99": None}
    times = np.percentile([1000 * o.seconds for o in outcomes], (50, 95, 99))
    return {name: round(float(value), 3) for name, value in zip(("p50", "p95", "p99"), times, strict=True)}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
