"""Each invariant holds of a sound history, and fails on one that was doctored."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services import bundle
from services.domain import Segment, Tier
from services.images import preprocess
from services.model import Model
from testbed.chaos import invariants, report
from testbed.chaos.history import Asked, Counters, Ending, Event, Given, History, Record, Usage
from testbed.chaos.invariants import Verdict, quiet_times, verdicts
from testbed.chaos.pool import Pool
from testbed.chaos.replay import Replay, is_lossless
from testbed.chaos.schedule import Action, Target
from testbed.chaos.stalls import Bystander, stolen_seconds

PLAN = "device 0:2 > edge 2:4 int4+zstd > cloud 4:8 int8"


@pytest.fixture(scope="module")
def pool(tiny: Path, model: Model) -> Pool:
    images, _ = bundle.load_samples(bundle.load(tiny))
    return Pool.of(images[..., None] if images.ndim == 3 else images, model, 0)


@pytest.fixture(scope="module")
def replay(model: Model, pool: Pool) -> Replay:
    return Replay(model, pool.tensors)


def answer(replay: Replay, inputs: int, exits: tuple[int, ...], tiers: tuple[Tier, ...], plan: str = PLAN) -> Given:
    """The answer that a sound testbed gives."""
    blank = Given(inputs, plan, exits, tuple(map(int, tiers)), b"")
    return replace(blank, scores=replay.scores(blank).tobytes())


def record(number: int, at: float, given: Given, **changes: Any) -> Record:
    name = f"chaos-{number}"
    asked = Asked(name, given.inputs, len(given.exits), 10.0, reaches_up=True)
    made = Record(asked, at, at + 0.05, Ending.ANSWERED, (given,), 1, frozenset({name}))
    return replace(made, **changes)


@pytest.fixture(scope="module")
def sound(replay: Replay) -> History:
    """Two faults, requests between and after them, one of which was left and one degraded while it had reason to be."""
    cloud = answer(replay, 0, (2,), (Tier.CLOUD,))
    here = answer(replay, 1, (2,), (Tier.DEVICE,))
    records = [record(number, number / 2, cloud) for number in range(60)]
    records[10] = record(10, 5.0, here, reason="upstream_unavailable", degraded_below=1)
    records[20] = record(20, 10.0, cloud, ending=Ending.CANCELLED, answers=(), finals=0, named=frozenset())
    events = (Event(Action.KILL, Target.EDGE, 4.0, 6.0), Event(Action.CUT, Target.EDGE_CLOUD, 15.0, 16.0))
    counted = Counters(60, {"OK": 59, "Canceled": 1}, 59, 59, {"upstream_unavailable": 1})
    held = {"device-agent": Usage(1, 100 << 20, 20, 10, 0.0, 0.0, 9.0), "link-device-edge": Usage(2, 10 << 20, 5, 5)}
    return History(0, 0.5, ("exchange", "unary"), tuple(records), events, counted, held, held)


def test_a_sound_history_holds(sound: History, replay: Replay) -> None:
    found = verdicts(sound, replay)
    assert {name: verdict.passed for name, verdict in found.items()} == dict.fromkeys(found, True)
    shown = report.as_json(sound, found)
    assert (shown["requests"], shown["failed"], shown["cancelled"], shown["wrong"]) == (60, 0, 1, 0)
    assert shown["degraded"] == {"upstream_unavailable": 1}
    assert report.passed(shown)


def change(sound: History, number: int, **changes: Any) -> History:
    records = list(sound.records)
    records[number] = replace(records[number], **changes)
    return replace(sound, records=tuple(records))


def changed(sound: History, *numbers: int, **changes: Any) -> History:
    for number in numbers:
        sound = change(sound, number, **changes)
    return sound


def test_one_canary_that_lost_patience_long_after_shows_nothing(sound: History, replay: Replay) -> None:
    impatient = change(sound, 58, reason="upstream_unavailable", degraded_below=1)
    assert verdicts(impatient, replay)["recovers"].passed


def counted(sound: History, **changes: Any) -> History:
    return replace(sound, counters=replace(sound.counters, **changes))


def after(sound: History, **changes: Any) -> History:
    return replace(sound, after=sound.after | {"device-agent": replace(sound.after["device-agent"], **changes)})


DOCTORED: dict[str, tuple[str, Callable[[History], History]]] = {
    "an error": ("nothing_fails", lambda h: change(h, 3, ending=Ending.FAILED, answers=(), finals=0, error="x")),
    "a part that died": ("nothing_fails", lambda h: replace(h, died=("device-agent",))),
    "a fault in a log": ("nothing_fails", lambda h: replace(h, faults=("edge: KeyError",))),
    "a late answer": ("ends_once_in_time", lambda h: change(h, 3, ended=h.records[3].at + 11.5)),
    "a late error": ("ends_once_in_time", lambda h: change(h, 20, ended=h.records[20].at + 11.5)),
    "an error after the last answer": ("ends_once_in_time", lambda h: change(h, 3, ending=Ending.FAILED)),
    "two last answers, left": ("ends_once_in_time", lambda h: change(h, 20, finals=2)),
    "two last answers": ("ends_once_in_time", lambda h: change(h, 3, finals=2)),
    "no last answer": ("ends_once_in_time", lambda h: change(h, 3, finals=0)),
    "a request that ended twice": ("ends_once_in_time", lambda h: replace(h, records=(*h.records, h.records[3]))),
    "another's id": ("answers_keep_their_id", lambda h: change(h, 3, named=frozenset({"chaos-4"}))),
    "a call nobody made": ("counts_agree", lambda h: counted(h, started=61)),
    "a call that never ended": ("counts_agree", lambda h: counted(h, handled={"OK": 58, "Canceled": 1})),
    "an answer not counted": ("counts_agree", lambda h: counted(h, requests=57)),
    "samples counted twice": ("counts_agree", lambda h: counted(h, samples=118)),
    "a degraded one not counted": ("counts_agree", lambda h: counted(h, degraded={})),
    "degraded long after": ("recovers", lambda h: changed(h, 57, 58, reason="upstream_unavailable", degraded_below=1)),
    "an error long after": ("recovers", lambda h: changed(h, 26, 27, ending=Ending.FAILED, error="x")),
    "nobody asked the cloud": ("recovers", lambda h: replace(h, records=h.records[:32])),
    "no fault": ("recovers", lambda h: replace(h, events=())),
    "memory": ("back_to_baseline", lambda h: after(h, rss_bytes=300 << 20)),
    "descriptors": ("back_to_baseline", lambda h: after(h, descriptors=60)),
    "threads": ("back_to_baseline", lambda h: after(h, threads=60)),
    "something in flight": ("back_to_baseline", lambda h: after(h, in_flight=1.0)),
    "something queued": ("back_to_baseline", lambda h: after(h, queued=1.0)),
    "a part that is gone": ("back_to_baseline", lambda h: replace(h, after={})),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_a_doctored_history_breaks_what_it_should(name: str, sound: History, replay: Replay) -> None:
    invariant, doctor = DOCTORED[name]
    found = verdicts(doctor(sound), replay)
    assert not found[invariant].passed
    assert found["answers_equal_one_process"].passed


def test_who_hangs_up_may_have_had_the_last_answer(sound: History) -> None:
    assert invariants.ends_once_in_time(change(sound, 20, finals=1)).passed


def test_one_of_many_may_lose_patience_without_a_fault_but_not_several(sound: History) -> None:
    records = tuple(replace(r, asked=replace(r.asked, reaches_up=r.at % 1 == 0)) for r in sound.records)
    impatient = replace(sound, records=records)
    for count, holds in ((1, True), (2, False)):
        for number in range(55, 55 + 2 * count, 2):
            impatient = change(impatient, number, reason="upstream_unavailable")
        assert invariants.recovers(impatient).passed == holds


def test_those_that_one_stall_takes_with_it_count_once_and_an_outage_that_lasts_does_not(sound: History) -> None:
    def taken(*numbers: int, ended: float) -> History:
        return changed(sound, *numbers, reason="upstream_unavailable", degraded_below=1, ended=ended)

    last = sound.records[58]
    assert invariants.recovers(taken(57, 58, ended=last.at + 0.2)).passed
    assert not invariants.recovers(taken(56, 57, 58, ended=last.at + 0.2 - 1.0)).passed


def test_what_the_machine_did_to_all_is_no_tiers_doing_unless_it_is_all_that_was_seen(sound: History) -> None:
    worse = changed(sound, 50, 54, 58, reason="upstream_unavailable", degraded_below=1)
    assert not invariants.recovers(worse).passed
    assert not invariants.recovers(replace(worse, stalls=((25.0, 25.5),))).passed
    seen = replace(worse, stalls=((24.5, 25.3), (26.5, 26.8), (28.2, 28.8)))
    assert invariants.recovers(seen).passed
    assert invariants.recovers(seen).evidence["stalls_of_the_machine_seconds"] == pytest.approx(1.7)
    everybody = changed(sound, *range(40, 60), reason="upstream_unavailable", degraded_below=1)
    assert not invariants.recovers(replace(everybody, stalls=((20.0, 30.0),))).passed


@pytest.mark.parametrize(
    ("error", "deadline", "stalls", "holds"),
    [
        ("DEADLINE_EXCEEDED: x", 1.1, ((25.0, 25.5),), True),
        ("DEADLINE_EXCEEDED: x", 1.1, ((28.0, 28.5),), False),
        ("DEADLINE_EXCEEDED: x", 10.0, ((25.0, 25.5),), False),
        ("QUEUE_FULL: x", 1.1, ((25.0, 25.5),), True),
        ("UNAVAILABLE: x", 1.1, ((25.0, 25.5),), False),
    ],
)
def test_only_a_stall_excuses_and_only_who_had_little_time(
    sound: History, error: str, deadline: float, stalls: tuple[tuple[float, float], ...], holds: bool
) -> None:
    asked = replace(sound.records[51].asked, deadline_seconds=deadline)
    failed = change(sound, 51, ending=Ending.FAILED, answers=(), finals=0, error=error, asked=asked)
    assert invariants.nothing_fails(replace(failed, stalls=stalls)).passed == holds


def test_a_bystander_tells_of_looks_that_come_much_too_late() -> None:
    seen = Bystander(began=100.0)
    for before, now in ((101.0, 101.06), (102.0, 102.2), (103.0, 103.5)):
        seen.looked(before, now)
    assert seen.stalls == [(3.0, 3.5)]
    seen = Bystander(began=100.0, processors=4)
    for taken in (0.05, 0.2):
        seen.was_taken(101.0, 101.25, taken)
    assert seen.stalls == [(1.0, 1.25)]
    assert invariants.covered([(1.0, 2.0), (1.5, 2.5), (1.6, 1.7), (4.0, 4.5)]) == pytest.approx(2.0)
    assert stolen_seconds() >= 0
    before = threading.active_count()
    with seen.watching():
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_call_that_was_turned_away_and_asked_again_is_another_call(sound: History) -> None:
    handled = {"OK": 59, "Canceled": 1, "Unavailable": 2}
    assert invariants.counts_agree(counted(sound, started=62, handled=handled)).passed
    assert not invariants.counts_agree(counted(sound, started=63, handled=handled | {"Internal": 1})).passed


def test_who_was_answered_too_late_in_a_stall_may_count_as_answered(sound: History) -> None:
    asked = replace(sound.records[51].asked, deadline_seconds=1.1)
    error = "DEADLINE_EXCEEDED: x"
    late = changed(sound, 51, 52, ending=Ending.FAILED, answers=(), finals=0, error=error, asked=asked)
    assert not invariants.counts_agree(late).passed
    assert invariants.counts_agree(replace(late, stalls=((25.0, 26.5),))).passed


def test_all_that_failed_are_counted_though_few_are_shown(sound: History) -> None:
    failed = changed(sound, *range(30, 50), ending=Ending.FAILED, error="x")
    assert "20 failed" in report._seen("nothing_fails", dict(invariants.nothing_fails(failed).evidence))


def test_an_outage_is_no_stall_though_its_requests_overlap(sound: History) -> None:
    worse = sound
    for number in range(40, 60):
        ended = sound.records[number].at + 10.0  # when all others have begun
        worse = change(worse, number, reason="upstream_unavailable", degraded_below=1, ended=ended)
    assert not invariants.recovers(worse).passed
    assert invariants.recovers(change(worse, 43, reason="", degraded_below=0)).passed


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": 2},
        {"plan": "device 0:2 > edge 2:4 int8+zstd > cloud 4:8 int8"},
        {"tiers": (0,)},
        {"exits": (1,)},
        {"plan": "device 0:2"},
        {"exits": (2, 2), "tiers": (2, 2)},
        {"plan": "nonsense"},
    ],
)
def test_an_answer_to_something_else_is_wrong(changes: dict[str, Any], sound: History, replay: Replay) -> None:
    given = replace(sound.records[3].answers[0], **changes)
    verdict = invariants.answers_equal(change(sound, 3, answers=(given,)), replay)
    assert not verdict.passed
    assert verdict.evidence["wrong"] == 1


def test_an_answer_that_is_off_by_one_bit_is_wrong(sound: History, replay: Replay) -> None:
    given = sound.records[3].answers[0]
    scores = np.frombuffer(given.scores, np.float32).copy()
    scores[0] = np.nextafter(scores[0], np.float32(2))
    verdict = invariants.answers_equal(change(sound, 3, answers=(replace(given, scores=scores.tobytes()),)), replay)
    assert verdict.evidence["wrong"] == 1


def test_a_batch_is_run_again_as_its_samples_left_it(model: Model, pool: Pool, replay: Replay) -> None:
    """Computed by hand: who leaves at the device, and the others through the codec at the edge."""
    from services import codec, exits

    inputs = next(at for at, each in enumerate(pool.images) if len(each) > 3)
    count = len(pool.images[inputs])
    leave = np.arange(count) % 2 == 0
    given = Given(
        inputs, PLAN, tuple(int(x) for x in np.where(leave, 0, 1)), tuple(int(x) for x in np.where(leave, 0, 1)), b""
    )
    activation, first = model.run(Segment(0, 2), pool.tensors[inputs])
    chosen = codec.get("int4+zstd")
    crossed = chosen.decode(chosen.encode(activation[~leave]))
    _, second = model.run(Segment(2, 4), crossed)
    assert first is not None
    assert second is not None
    found = replay.scores(given)
    assert np.array_equal(found[leave], exits.softmax(first)[leave])
    assert np.array_equal(found[~leave], exits.softmax(second))


def test_what_stayed_below_a_lossy_hop_lost_nothing(replay: Replay) -> None:
    assert is_lossless(answer(replay, 0, (2,), (Tier.DEVICE,)))
    assert not is_lossless(answer(replay, 0, (1,), (Tier.EDGE,)))
    plain = answer(replay, 0, (1,), (Tier.EDGE,), "device 0:0 > edge 0:4 pixels+webp > cloud 4:8 int8")
    assert is_lossless(plain)
    assert np.allclose(replay.scores(plain), replay.whole(plain), atol=1e-5)


def test_quiet_times_begin_when_all_faults_are_undone() -> None:
    long = Event(Action.KILL, Target.EDGE, 1.0, 9.0)
    inner = Event(Action.CUT, Target.EDGE_CLOUD, 2.0, 3.0)
    later = Event(Action.SLOW, Target.EDGE_CLOUD, 20.0, 21.0)
    assert list(quiet_times([later, inner, long], 30.0)) == [(long, 20.0), (later, 30.0)]


def test_the_report_shows_what_did_not_hold(sound: History, replay: Replay) -> None:
    found = report.as_json(doctored := replace(sound, died=("edge-node",)), verdicts(doctored, replay))
    assert not report.passed(found)
    assert isinstance(verdicts(sound, replay)["recovers"], Verdict)
    assert report.table(found).row_count == len(found["invariants"])


def test_the_pool_draws_the_same_from_the_same_seed(tiny: Path, model: Model, pool: Pool) -> None:
    images, _ = bundle.load_samples(bundle.load(tiny))
    again = Pool.of(images[..., None] if images.ndim == 3 else images, model, 0)
    assert [each.tobytes() for each in again.images] == [each.tobytes() for each in pool.images]
    for seen, tensor in zip(pool.images, pool.tensors, strict=True):
        assert np.array_equal(preprocess(seen, model.manifest.input), tensor)
