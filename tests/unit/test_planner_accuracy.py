"""What plans may cost in accuracy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_agent.planner import cost, rank
from services.bundle import CodecAccuracy
from services.domain import CodecCost, Policy
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


def test_what_an_edge_hands_on_as_it_came_is_encoded_decoded_and_lost_once() -> None:
    entries = [CodecAccuracy(split_point=1, codec=name, delta=-0.004) for name in ("int4", "int3")]
    slow = (CodecCost("int4", 1e-6, 2e-6, 0.1), CodecCost("int3", 1e-6, 2e-6, 0.1))
    beliefs = three(chain(SHAPES, accuracy=0.9, codec_accuracy=entries), EVEN)
    beliefs = replace(beliefs, profiles={t: replace(p, codecs=slow) for t, p in beliefs.profiles.items()})
    found = cost(beliefs, split(1, 1, "int4", "int4"), Policy())
    assert found is not None
    assert found.accuracy == pytest.approx(0.896)
    assert (found.terms["decode 1"], found.terms["encode 2"]) == (0.0, 0.0)
    assert min(found.terms["encode 1"], found.terms["decode 2"]) > 0
    assert cost(beliefs, split(1, 1, "int4", "int3"), Policy()) is None


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
