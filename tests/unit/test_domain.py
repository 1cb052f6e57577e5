"""The words, as values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from services.domain import NO_EXIT, Deadline, DegradedReason, Payload, Plan, Segment, Stage, Tier
from services.response import HopTrace, Predictions, Trace
from tests.fakes import FakeClock

PLAN = Plan(
    (
        Stage(Tier.DEVICE, Segment(0, 2)),
        Stage(Tier.EDGE, Segment(2, 4), "int8"),
        Stage(Tier.CLOUD, Segment(4, 8), "fp16"),
    )
)


def test_a_plan_reads_as_one_line() -> None:
    assert str(PLAN) == "device 0:2 > edge 2:4 int8 > cloud 4:8 fp16"


def test_a_plan_knows_each_tier_and_who_follows() -> None:
    assert PLAN.stage(Tier.EDGE) == PLAN.stages[1]
    assert PLAN.after(Tier.DEVICE) == PLAN.stages[1]
    assert PLAN.after(Tier.CLOUD) is None
    short = Plan(PLAN.stages[::2])
    assert short.stage(Tier.EDGE) is None
    assert short.after(Tier.DEVICE) == PLAN.stages[2]


def test_a_deadline_runs_down_on_its_own_clock() -> None:
    clock = FakeClock(50)
    deadline = Deadline.after(2, clock)
    assert deadline.remaining() == 2
    clock.now = 53
    assert deadline.remaining() == -1


def test_values_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PLAN.stages[0].codec = "fp32"  # type: ignore[misc]


def test_the_stages_of_a_trace_add_up() -> None:
    hops = (HopTrace(Tier.DEVICE, 1, 2, 4, 8, 16), HopTrace(Tier.EDGE, 32))
    assert [hop.seconds for hop in hops] == [31, 32]
    assert Trace(hops).seconds == 63
    assert Trace().seconds == 0


def test_a_payload_counts_its_parameters() -> None:
    assert Payload((1, 2), "int8", memoryview(b"ab"), b"12345678").nbytes == 10


def test_answers_of_a_smaller_batch_return_to_their_rows() -> None:
    answers, two = Predictions.empty(4, 3), Predictions.empty(2, 3)
    assert (answers.exits == NO_EXIT).all()
    two.scores[:] = [[0, 0, 1], [0, 1, 0]]
    two.exits[:], two.tiers[:], two.reasons[:], two.confidences[:] = [1, 2], [1, 2], [0, 5], [0.25, 0.5]
    answers.put(np.array([3, 1]), two)
    assert answers.labels.tolist() == [0, 1, 0, 2]
    assert answers.exits.tolist() == [NO_EXIT, 2, NO_EXIT, 1]
    assert answers.tiers.tolist() == [0, 2, 0, 1]
    assert answers.reasons.tolist() == [0, 5, 0, 0]
    assert answers.confidences.tolist() == [0, 0.5, 0, 0.25]
    assert len(answers) == 4


def test_labels_are_lower_case_and_no_reason_is_empty() -> None:
    assert [tier.label for tier in Tier] == ["device", "edge", "cloud"]
    assert DegradedReason.NONE.label == ""
    assert DegradedReason.UPSTREAM_OVERLOADED.label == "upstream_overloaded"
