"""Observers hear of everything that ended meanwhile at once, and of all of it whatever another of them does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from services import bundle, log
from services.domain import HopTrace, Plan, Predictions, Response, Tier, Trace
from services.observing import Finished, LogLines, Observers, Refused


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


def finished(tiny: Path, name: str) -> Finished:
    response = Response(Predictions.empty(1, 4), Trace((HopTrace(Tier.EDGE, compute_seconds=0.001),)))
    return Finished(name, Tier.EDGE, bundle.load(tiny).manifest, Plan(()), response)


async def test_what_ended_in_one_turn_of_the_loop_is_told_at_once_in_its_order(tiny: Path) -> None:
    one, all_of_them = Ear(), Gathering()
    observers = Observers([one, all_of_them])
    for name in ("a", "b", "c"):
        observers.answered(finished(tiny, name))
    assert not one.heard
    await asyncio.sleep(0)
    observers.answered(finished(tiny, "d"))
    await asyncio.sleep(0)
    assert one.heard == [["a"], ["b"], ["c"], ["d"]]
    assert all_of_them.heard == [["a", "b", "c"], ["d"]]


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
