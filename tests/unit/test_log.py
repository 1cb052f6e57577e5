"""JSON lines, and no tensors in them."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from services import log
from services.domain import Tier
from services.response import HopTrace, Predictions, Response, Trace


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    logger = logging.getLogger("offramp")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def response() -> Response:
    answers = Predictions.empty(3, 2)
    answers.tiers[:], answers.reasons[:] = [0, 1, 1], [0, 0, 2]
    return Response(answers, Trace((HopTrace(Tier.DEVICE, compute_seconds=0.0125),)))


def test_a_request_is_one_line_with_its_id_and_tier(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "info")
    log.answered_together([("r1", Tier.EDGE, response().predictions, response().trace)])
    (line,) = lines(capsys)
    assert {key: line[key] for key in line if key != "time"} == {
        "level": "info",
        "tier": "edge",
        "event": "request",
        "request_id": "r1",
        "samples": 3,
        "answered_here": 2,
        "degraded": 1,
        "milliseconds": 12.5,
        "reasons": {"upstream_unavailable": 1},
    }


def test_a_request_that_went_as_planned_needs_no_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "info")
    answers = response().predictions
    answers.reasons[:] = 0
    log.answered_together([("r1", Tier.EDGE, answers, response().trace)])
    (line,) = lines(capsys)
    assert line["degraded"] == 0
    assert "reasons" not in line


def test_where_standard_error_was_closed_before_the_start_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    log.configure("edge", "info")
    log.answered_together([("r1", Tier.EDGE, response().predictions, response().trace)])
    log.event("failed", level=logging.ERROR)


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_requests_go_on_when_nobody_reads_the_log_any_more(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Gone(io.StringIO):
        asked = 0

        def write(self, _text: str) -> int:
            self.asked += 1
            raise error

    gone = Gone()
    monkeypatch.setattr(sys, "stderr", gone)
    log.configure("edge", "info")
    for _ in range(2):
        log.answered_together([("r1", Tier.EDGE, response().predictions, response().trace)])
    assert gone.asked == 2


def test_a_level_silences_what_is_below_it(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "warning")
    log.answered_together([("r1", Tier.EDGE, response().predictions, response().trace)])
    log.event("quiet")
    log.event("loud", level=logging.ERROR)
    assert [line["event"] for line in lines(capsys)] == ["loud"]


def test_configuring_twice_does_not_say_everything_twice(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "info")
    log.configure("edge", "info")
    log.event("once")
    assert len(lines(capsys)) == 1


def test_a_line_break_in_a_request_id_makes_no_second_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "info")
    log.refused('a\n{"level": "error"}', "INVALID_INPUT", "b\nc")
    (line,) = lines(capsys)
    assert (line["request_id"], line["message"]) == ('a\n{"level": "error"}', "b\nc")


def test_what_a_caller_sent_is_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "info")
    log.refused("i" * 10_000, "INVALID_INPUT", "m" * 10_000)
    (line,) = lines(capsys)
    assert (len(line["request_id"]), len(line["message"])) == (100, 500)


def test_an_exception_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "info")
    try:
        raise ValueError("broken")
    except ValueError:
        log.event("failed", level=logging.ERROR, exc_info=True)
    (line,) = lines(capsys)
    assert "ValueError: broken" in line["exception"]


def test_a_field_that_json_does_not_know_is_still_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("edge", "info")
    log.event("odd", value=np.float32(1.5))
    assert lines(capsys)[0]["value"] == "1.5"
