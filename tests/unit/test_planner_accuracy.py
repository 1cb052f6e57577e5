"""What plans may cost in accuracy."""

from __future__ import annotations

import pytest

from device_agent.planner import cost, rank
from services.bundle import CodecAccuracy
from services.domain import Policy
from tests.problems import chain, three
from tests.unit.test_planner import EVEN, SHAPES, split


def test_codecs_that_lose_more_than_the_floor_allows_are_left_out() -> None:
    entries = [
        CodecAccuracy(split_point=1, codec=name, delta=delta) for name, delta in (("int4", -0.02), ("int8", 0.0))
    ]
    beliefs = three(chain(SHAPES, accuracy=0.9, codec_accuracy=entries), EVEN)
    plan = split(1, 3, "int4+zstd")
    assert cost(beliefs, plan, Policy()) is None
    found = cost(beliefs, plan, Policy(min_accuracy=0.88))
    assert found is not None
    assert found.accuracy == pytest.approx(0.88)
    assert rank(beliefs, Policy(min_accuracy=0.91)) == []


def test_the_losses_of_both_hops_count_together() -> None:
    entries = [CodecAccuracy(split_point=at, codec="int4", delta=-0.004) for at in (1, 2)]
    beliefs = three(chain(SHAPES, accuracy=0.9, codec_accuracy=entries), EVEN)
    assert cost(beliefs, split(1, 2, "int4", "fp32"), Policy()) is not None
    assert cost(beliefs, split(1, 2, "int4", "int4"), Policy()) is None


def test_a_gain_by_chance_on_one_hop_makes_up_for_no_loss_on_the_other() -> None:
    entries = [CodecAccuracy(split_point=at, codec="int4", delta=delta) for at, delta in ((1, -0.006), (2, 0.004))]
    beliefs = three(chain(SHAPES, accuracy=0.9, codec_accuracy=entries), EVEN)
    assert cost(beliefs, split(1, 2, "fp32", "int4"), Policy()) is not None
    assert cost(beliefs, split(1, 2, "int4", "int4"), Policy()) is None


def test_lossy_codecs_that_nobody_measured_are_not_trusted() -> None:
    entry = CodecAccuracy(split_point=1, codec="int4", delta=0.0)
    assert cost(three(chain(SHAPES, accuracy=0.9), EVEN), split(1, 3, "int4"), Policy()) is None
    assert cost(three(chain(SHAPES, codec_accuracy=[entry]), EVEN), split(1, 3, "int4"), Policy()) is None
    assert cost(three(chain(SHAPES, accuracy=0.9), EVEN), split(1, 3, "int8"), Policy()) is not None


def test_where_a_codec_was_not_measured_it_is_taken_to_lose_what_it_does_where_that_is_worst() -> None:
    entries = [CodecAccuracy(split_point=at, codec="int8", delta=delta) for at, delta in ((1, 0.001), (2, -0.003))]
    beliefs = three(chain(SHAPES, accuracy=0.9, codec_accuracy=entries), EVEN)
    for name in ("int8", "int8+zstd"):
        found = cost(beliefs, split(0, 3, name), Policy())
        assert found is not None
        assert found.accuracy == pytest.approx(0.897)
        assert cost(beliefs, split(0, 3, name), Policy(min_accuracy=0.9)) is None
        assert cost(beliefs, split(1, 3, name), Policy(min_accuracy=0.9)) is not None
