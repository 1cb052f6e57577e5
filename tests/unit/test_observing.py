"""Observers hear of everything that ended meanwhile at once, and of all of it whatever another of them does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from services import bundle, log
from services.domain import Plan, Tier
from services.observing import MOST_TOGETHER, Finished, LogLines, Observers, Refused
from services.response import HopTrace, Predictions, Response, Trace


class Ear:
    """Hears of them one by one; with `together`, all at once."""

    def __init__(self) -> None:
        self.heard: list[list[str]] = []

    def answered(self, finished: Finished) -> None:
        self.heard.append([finished.request_id])

    def refused(self, refused: Refused) -> None:
        self.heard.append([refused.request_id])


class Gathering(Ear):
    def answered_together(self, finished: Sequence[Finished]) -> None:
        self.heard.append([each.request_id for each in finished])


class Deaf(Ear):
    def answered(self, finished: Finished) -> None:
        raise RuntimeError("no")

    def refused(self, refused: Refused) -> None:
        raise RuntimeError("no")


async def told(ear: Ear, times: int) -> None:
    while len(ear.heard) < times:
        await asyncio.sleep(0)


def finished(tiny: Path, name: str) -> Finished:
    response = Response(Predictions.empty(1, 4), Trace((HopTrace(Tier.EDGE, compute_seconds=0.001),)))
    return Finished(name, Tier.EDGE, bundle.load(tiny).manifest, Plan(()), response, at=0)


async def test_what_ended_in_one_turn_of_the_loop_is_told_at_once_in_its_order(tiny: Path) -> None:
    one, all_of_them = Ear(), Gathering()
    observers = Observers([one, all_of_them])
    for name in ("a", "b", "c"):
        observers.answered(finished(tiny, name))
    assert not one.heard
    await asyncio.sleep(0)
    assert one.heard == [["a"], ["b"], ["c"]]
    assert all_of_them.heard == [["a", "b", "c"]]


async def test_what_ends_soon_after_others_were_told_of_is_told_of_together(tiny: Path) -> None:
    ear = Gathering()
    observers = Observers([ear])
    for name in ("a", "b", "c"):
        observers.answered(finished(tiny, name))
        await asyncio.sleep(0)
    assert ear.heard == [["a"]]
    await asyncio.wait_for(told(ear, 2), 5)
    assert ear.heard == [["a"], ["b", "c"]]


async def test_who_is_asked_tells_before_of_all_that_ended_and_of_each_once(tiny: Path) -> None:
    ear = Gathering()
    observers = Observers([ear])
    for name in ("a", "b"):
        observers.answered(finished(tiny, name))
        await asyncio.sleep(0)
    observers.tell()
    observers.tell()
    assert ear.heard == [["a"], ["b"]]


async def test_a_crowd_does_not_wait_to_be_told_of(tiny: Path) -> None:
    ear = Gathering()
    observers = Observers([ear])
    observers.answered(finished(tiny, "first"))
    await asyncio.sleep(0)
    for number in range(MOST_TOGETHER):
        observers.answered(finished(tiny, str(number)))
    await asyncio.sleep(0)
    assert [len(each) for each in ear.heard] == [1, MOST_TOGETHER]


async def test_an_observer_that_fails_keeps_nothing_from_the_others(tiny: Path) -> None:
    ear = Ear()
    observers = Observers([Deaf(), ear])
    observers.answered(finished(tiny, "a"))
    await asyncio.sleep(0)
    observers.refused(Refused("b", "QUEUE_FULL", "no room"))
    assert ear.heard == [["a"], ["b"]]


def test_each_of_several_requests_has_a_line_of_its_own(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "info")
    LogLines().answered_together([finished(tiny, name) for name in ('a"\n', "b")])
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["request_id"] for line in lines] == ['a"\n', "b"]
    assert [line["samples"] for line in lines] == [1, 1]
