"""What must hold of every history, whatever was done to the tiers; each check says what it saw.

The six of a Jepsen-like test of an inference system, and a seventh: while the device lives, nothing fails.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.errors import DeadlineExceeded, QueueFull
from testbed.chaos.history import Ending, Event, Given, History, Record, Usage
from testbed.chaos.replay import Replay, is_lossless
from testbed.chaos.schedule import RECOVERY_SECONDS
from testbed.chaos.stalls import Stall

GRACE_SECONDS = 1.0
WHOLE_TOLERANCE = 1e-5
RSS_SLACK_BYTES = 96 << 20
DESCRIPTOR_SLACK = 8
THREAD_SLACK = 12
"""Pools grow to their size when they are first needed, which may be after the first look."""
IMPATIENT_SHARE = 0.02
STALL_OVER_SECONDS = 1.0
"""So long after a stall of the machine, tiers may leave each other alone that took it for the other's silence."""
_FEW = 2
_SHOWN = 5

Check = Callable[[History], "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an invariant held, and what was seen."""

    passed: bool
    evidence: Mapping[str, Any]


def verdicts(history: History, replay: Replay) -> dict[str, Verdict]:
    """All invariants by name."""
    checks: dict[str, Check] = {
        "nothing_fails": nothing_fails,
        "ends_once_in_time": ends_once_in_time,
        "answers_equal_one_process": lambda h: answers_equal(h, replay),
        "answers_keep_their_id": answers_keep_their_id,
        "counts_agree": counts_agree,
        "recovers": recovers,
        "back_to_baseline": back_to_baseline,
    }
    return {name: check(history) for name, check in checks.items()}


def nothing_fails(history: History) -> Verdict:
    """Every request whose client waited is answered; no part goes away that was not made to, or logs a fault.

    Where the machine itself stood still, a deadline shorter than recovery may have passed before anybody could answer.
    """
    failed = _failed(history)
    excused = [r for r in failed if is_excused(r, history.stalls)]
    waited = sum(r.ending is not Ending.CANCELLED for r in history.records)
    passed = len(excused) == len(failed) and not history.died and not history.faults and waited > 0
    evidence = {
        "waited_for": waited,
        "failed_count": len(failed),
        "failed": _shown(failed),
        "of_these_in_stalls_of_the_machine": len(excused),
        "died": list(history.died),
        "faults_logged": list(history.faults[:_SHOWN]),
    }
    return Verdict(passed, evidence)


def ends_once_in_time(history: History) -> Verdict:
    """Each request ends exactly once, with one last answer or one error, within its deadline and a second."""
    counts = Counter(r.asked.id for r in history.records)
    again = [name for name, count in counts.items() if count > 1]
    late = late_ones(history)
    unfinished = [r for r in history.records if not _ended_once(r)]
    longest = max((r.seconds - r.asked.deadline_seconds for r in history.records), default=None)
    return Verdict(
        not (again or late or unfinished) and bool(history.records),
        {
            "requests": len(history.records),
            "late": _shown(late),
            "ended_twice": again[:_SHOWN],
            "without_one_last_answer": _shown(unfinished),
            "longest_past_deadline_seconds": longest,
        },
    )


def answers_equal(history: History, replay: Replay) -> Verdict:
    """Every answer equals, bit by bit, what one process computes by the answer's plan, through its codecs.

    Where nothing on the way was lossy, it is also what the network computes in one piece, to `WHOLE_TOLERANCE`.
    """
    told = Counter(given for record in history.records for given in record.answers)
    wrong = wrong_ones(told, replay)
    lossless = [given for given in told if given not in wrong and is_lossless(given)]
    differences = [_difference(given, replay) for given in lossless]
    worst = max(differences, default=0.0)
    examples = [f"{_id_of(history, given)}: {given.plan}" for given in list(wrong)[:_SHOWN]]
    return Verdict(
        not wrong and worst <= WHOLE_TOLERANCE and bool(told),
        {
            "answers": sum(told.values()),
            "distinct": len(told),
            "plans": len({given.plan for given in told}),
            "wrong": sum(told[given] for given in wrong),
            "examples": examples,
            "lossless_distinct": len(lossless),
            "lossless_worst_difference_from_whole": worst,
        },
    )


def answers_keep_their_id(history: History) -> Verdict:
    """No answer comes under another request's id."""
    foreign = [r for r in history.records if r.named - {r.asked.id}]
    named = sum(bool(r.named) for r in history.records)
    return Verdict(not foreign and named > 0, {"answers_named": named, "under_another_id": _shown(foreign)})


def counts_agree(history: History) -> Verdict:
    """What clients saw is what the device counted.

    A request whose client hung up, or ran out of time in a stall of the machine, may count either way. One that was
    turned away is asked again by the client's gRPC: that is another call.
    """
    records, counted = history.records, history.counters
    left = [r for r in records if r.ending is Ending.CANCELLED or is_excused(r, history.stalls)]
    again = counted.handled.get("Unavailable", 0)
    answered = [r for r in records if r.ending is Ending.ANSWERED]
    samples, left_samples = (sum(r.asked.samples for r in group) for group in (answered, left))
    degraded = sum(r.degraded_below for r in answered)
    ranges = {
        "calls_started": (counted.started, len(records) - len(left), len(records) + again),
        "calls_ended": (sum(counted.handled.values()), counted.started, counted.started),
        "calls_ok": (counted.handled.get("OK", 0), len(answered), len(answered) + len(left)),
        "requests": (counted.requests, len(answered), len(answered) + len(left)),
        "samples": (counted.samples, samples, samples + left_samples),
        "degraded_at_device": (sum(counted.degraded.values()), degraded, degraded + left_samples),
    }
    held = {name: least <= value <= most for name, (value, least, most) in ranges.items()}
    evidence = {name: {"counted": v, "at_least": a, "at_most": b} for name, (v, a, b) in ranges.items()}
    return Verdict(all(held.values()) and counted.started > 0, evidence)


def recovers(history: History) -> Verdict:
    """`RECOVERY_SECONDS` after a fault was undone, answers are as good as before it, until the next fault.

    There was a canary in each such time, and at most one in fifty of them, or one, is degraded; the same of the others:
    a device loses patience with the tiers above where the machine of the testbed is busy, faults or not. A machine that
    stalls takes all requests with it that are under way, so those count once, and not at all where a bystander saw the
    stall; but of more than two canaries not all may be degraded. Whoever set a deadline shorter than recovery may be
    short of time.
    """
    end = max((r.ended for r in history.records), default=0.0)
    found = [_recovery(history, event, until) for event, until in quiet_times(history.events, end)]
    evidence = {
        "bound_seconds": RECOVERY_SECONDS,
        "requests_after_bound": sum(each["after_bound"][who] for each in found for who in ("canaries", "others")),
        "degraded_after_bound": sum(each["degraded_after_bound"] for each in found),
        "stalls_of_the_machine_seconds": round(covered(history.stalls), 3),
        "faults": found,
    }
    return Verdict(all(_recovered(each) for each in found) and bool(found), evidence)


def back_to_baseline(history: History) -> Verdict:
    """Idle again, each part holds what it held before: nothing in flight, and memory, descriptors and threads."""
    found = {name: _growth(history.before[name], history.after.get(name)) for name in history.before}
    return Verdict(all(each["passed"] for each in found.values()) and bool(found), found)


def is_excused(record: Record, stalls: Iterable[Stall]) -> bool:
    """Whether a failed request had less time than recovery may take, and the machine stood still in it."""
    ran_out = record.error.startswith((DeadlineExceeded.reason, QueueFull.reason))  # the latter: too little is left
    return ran_out and record.asked.deadline_seconds <= RECOVERY_SECONDS and _stalled(record, stalls)


def late_ones(history: History) -> list[Record]:
    return [r for r in history.records if r.seconds > r.asked.deadline_seconds + GRACE_SECONDS]


def wrong_ones(told: Iterable[Given], replay: Replay) -> set[Given]:
    return {given for given in told if not replay.is_equal(given)}


def quiet_times(events: Iterable[Event], end: float) -> Iterator[tuple[Event, float]]:
    """(what was undone last, when the next fault began) for each time without faults, the last one until `end`."""
    last: Event | None = None
    for event in sorted(events, key=lambda each: each.began):
        if last is not None and event.began > last.ended:
            yield last, event.began
        last = event if last is None or event.ended >= last.ended else last
    if last is not None:
        yield last, end


def moments(records: Iterable[Record]) -> int:
    """How many there are when those that began while the first of them was under way count as one, and so on."""
    found, until = 0, -math.inf
    for record in sorted(records, key=lambda each: each.at):
        if record.at > until:
            found, until = found + 1, record.ended
    return found


def covered(stalls: Iterable[Stall]) -> float:
    """Seconds in any of them: some are seen in two ways."""
    seconds, end = 0.0, -math.inf
    for since, until in sorted(stalls):
        seconds += max(until - max(since, end), 0.0)
        end = max(end, until)
    return seconds


def _recovery(history: History, event: Event, until: float) -> dict[str, Any]:
    """Of requests that began and ended in the quiet time after `event`."""
    start, waited = event.ended, (r for r in history.records if r.ending is not Ending.CANCELLED)
    sent = [r for r in waited if start <= r.at and r.ended <= until]
    tainted = [r for r in sent if r.ending is Ending.FAILED or (r.reason and not _short_of_time(r))]
    canaries = [r for r in tainted if r.asked.reaches_up]
    late, after = ([r for r in some if r.at > start + RECOVERY_SECONDS] for some in (tainted, sent))
    told = [r for r in late if not _stalled(r, history.stalls)]
    return {
        "fault": f"{event.action} {event.target}",
        "undone_at": round(start, 3),
        "recovered_after_seconds": round(max((r.at - start for r in canaries), default=0.0), 3),
        "after_bound": {
            "canaries": sum(r.asked.reaches_up for r in after),
            "canaries_whole": sum(r.asked.reaches_up for r in after) - sum(r.asked.reaches_up for r in late),
            "canaries_degraded": moments(r for r in told if r.asked.reaches_up),
            "others": sum(not r.asked.reaches_up for r in after),
            "others_degraded": moments(r for r in told if not r.asked.reaches_up),
        },
        "degraded_after_bound": len(late),
        "examples": _shown(late),
    }


def _stalled(record: Record, stalls: Iterable[Stall]) -> bool:
    """Whether the machine stood still while it was under way, or just before."""
    return any(record.at < until + STALL_OVER_SECONDS and record.ended > since for since, until in stalls)


def _recovered(found: Mapping[str, Any]) -> bool:
    after = found["after_bound"]
    patient = all(after[f"{who}_degraded"] <= max(1, IMPATIENT_SHARE * after[who]) for who in ("canaries", "others"))
    some_whole = after["canaries_whole"] > 0 or after["canaries"] <= _FEW
    return bool(after["canaries"] > 0 and patient and some_whole)


def _ended_once(record: Record) -> bool:
    """Whoever hangs up may have had the last answer just before."""
    return (
        record.finals <= 1 if record.ending is Ending.CANCELLED else record.finals == (record.ending is Ending.ANSWERED)
    )


def _short_of_time(record: Record) -> bool:
    return record.reason == "deadline" and record.asked.deadline_seconds <= RECOVERY_SECONDS


def _growth(before: Usage, after: Usage | None) -> dict[str, Any]:
    if after is None:
        return {"passed": False, "missing": True}
    bounds = {
        "rss_bytes": RSS_SLACK_BYTES,
        "descriptors": DESCRIPTOR_SLACK,
        "threads": THREAD_SLACK,
    }
    held = {name: getattr(after, name) <= getattr(before, name) + slack for name, slack in bounds.items()}
    idle = not after.in_flight and not after.queued
    shown = {name: [getattr(before, name), getattr(after, name)] for name in (*bounds, "in_flight", "queued", "tasks")}
    return {"passed": all(held.values()) and idle, "restarted": before.process != after.process, **shown}


def _difference(given: Given, replay: Replay) -> float:
    scores = np.frombuffer(given.scores, np.float32)
    return float(np.abs(replay.whole(given).reshape(-1) - scores).max())


def _failed(history: History) -> list[Record]:
    return [r for r in history.records if r.ending is Ending.FAILED]


def _shown(records: Iterable[Record]) -> list[str]:
    some = list(records)
    lines = [
        f"{r.asked.id} at {r.at:.2f} s, {r.seconds:.2f} s: {r.error or r.reason or r.ending}"
        f" (deadline {r.asked.deadline_seconds:.2f} s; {r.asked.wishes or 'no wishes'})"
        for r in some
    ]
    return lines[:_SHOWN] + ([f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else [])


def _id_of(history: History, given: Given) -> str:
    return next(r.asked.id for r in history.records if given in r.answers)
