"""What came of a chaos run, as JSON and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from testbed.chaos.history import Ending, History, Record
from testbed.chaos.invariants import Verdict, late_ones

Json = dict[str, Any]
_SHOWN = 100


def as_json(history: History, verdicts: Mapping[str, Verdict]) -> Json:
    """requests, failed, late, wrong, degraded (answers by reason), cancelled, invariants, events, seed, minutes …"""
    records = history.records
    endings = Counter(record.ending for record in records)
    reasons = Counter(record.reason for record in records if record.reason)
    return {
        "seed": history.seed,
        "minutes": history.minutes,
        "transports": dict(zip(("device", "edge"), history.transports, strict=True)),
        "requests": len(records),
        "answered": endings[Ending.ANSWERED],
        "failed": endings[Ending.FAILED],
        "cancelled": endings[Ending.CANCELLED],
        "late": len(late_ones(history)),
        "wrong": verdicts["answers_equal_one_process"].evidence["wrong"],
        "degraded": dict(sorted(reasons.items())),
        "latency_ms": _latency([record for record in records if record.ending is Ending.ANSWERED]),
        "invariants": {name: asdict(verdict) for name, verdict in verdicts.items()},
        "events": [asdict(event) for event in sorted(history.events, key=lambda event: event.began)],
        "failures": [f"{r.asked.id} at {r.at:.3f} s: {r.error}" for r in records if r.error][:_SHOWN],
    }


def passed(found: Json) -> bool:
    """Whether every invariant held."""
    return all(verdict["passed"] for verdict in found["invariants"].values())


def table(found: Json) -> Table:
    """One line for each invariant."""
    shown = Table("invariant", "held", "what was seen", title="Invariants", title_justify="left", box=box.SIMPLE_HEAD)
    for name, verdict in found["invariants"].items():
        mark = "[green]yes[/]" if verdict["passed"] else "[bold red]NO[/]"
        shown.add_row(name.replace("_", " "), mark, _seen(name, verdict["evidence"]))
    return shown


def sentence(found: Json) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in found["degraded"].items()) or "none"
    return (
        f"{found['requests']} requests, {found['failed']} failed, {found['late']} late, {found['wrong']} wrong, "
        f"{found['cancelled']} left by their clients; degraded: {reasons}"
    )


def _seen(name: str, evidence: Json) -> str:
    match name:
        case "nothing_fails":
            return f"{evidence['waited_for']} waited for, {evidence['failed_count']} failed" + _first(
                evidence["failed"] + evidence["died"] + evidence["faults_logged"]
            )
        case "ends_once_in_time":
            return f"{evidence['requests']} ended" + _first(evidence["late"] + evidence["without_one_last_answer"])
        case "answers_equal_one_process":
            seen = f"{evidence['answers']} answers by {evidence['plans']} plans, {evidence['wrong']} differ"
            return seen + _first(evidence["examples"])
        case "answers_keep_their_id":
            return f"{evidence['answers_named']} named" + _first(evidence["under_another_id"])
        case "counts_agree":
            return ", ".join(f"{what.replace('_', ' ')} {each['counted']:.0f}" for what, each in evidence.items())
        case "recovers":
            faults = evidence["faults"]
            longest = max((each["recovered_after_seconds"] for each in faults), default=0.0)
            late = f"{evidence['degraded_after_bound']} of {evidence['requests_after_bound']} degraded later than"
            return (
                f"{len(faults)} quiet times after faults, recovered within {longest:.1f} s; "
                f"{late} {evidence['bound_seconds']:g} s"
                + _first([name for each in faults for name in each["examples"]])
            )
        case _:
            wrong = [part for part, each in evidence.items() if not each["passed"]]
            return f"{len(evidence)} parts" + (f"; not {', '.join(wrong)}" if wrong else "")


def _first(examples: list[str]) -> str:
    return f"; {examples[0]}" if examples else ""


def _latency(answered: list[Record]) -> dict[str, float | None]:
    if not answered:
        return {"p50": None, "p95": None, "p99": None, "max": None}
    found = np.percentile([record.seconds for record in answered], (50, 95, 99, 100))
    return {name: round(1000 * float(v), 2) for name, v in zip(("p50", "p95", "p99", "max"), found, strict=True)}
