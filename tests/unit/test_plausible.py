"""Measured times that cannot be are found, and those that can are left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import Segment
from services.plausible import TOO_LONG, implausible

LAST = 5


def times(blocks: list[float], **longer: float) -> dict[tuple[Segment, int], float]:
    """Heads and tails of one sample, by what blocks take; `longer`: s0_3=2.0 makes the head [0, 3) take twice that."""
    found = {}
    for at in range(1, LAST + 1):
        for segment in (Segment(0, at), Segment(at, LAST)):
            if not segment.empty:
                factor = longer.get(f"s{segment.start}_{segment.end}", 1.0)
                found[segment, 1] = factor * sum(blocks[segment.start : segment.end])
    return found


@given(st.lists(st.floats(0.001, 1), min_size=LAST, max_size=LAST))
def test_what_adds_up_is_plausible(blocks: list[float]) -> None:
    assert implausible(times(blocks), LAST) == []


@pytest.mark.parametrize(
    ("longer", "doubted"),
    [
        ({"s0_3": 2.0}, [3]),  # takes longer than the head up to 4
        ({"s2_5": 2.0}, [2]),  # takes longer than the tail from 1 on
        ({"s0_5": 1.5}, [5]),  # takes longer than its head and tail
        ({"s0_3": 1.1, "s2_5": 1.1, "s0_5": 1.1}, []),  # what a cut may cost
        ({"s0_2": 3.0, "s0_4": 3.0}, [2, 4]),
    ],
)
def test_what_took_longer_than_what_holds_it_is_doubted(longer: dict[str, float], doubted: list[int]) -> None:
    assert implausible(times([1.0] * LAST, **longer), LAST) == [(at, 1) for at in doubted]


def test_batch_sizes_are_held_against_themselves() -> None:
    alone = times([1.0] * LAST)
    together = {(segment, 8): 4 * took for (segment, _), took in times([1.0] * LAST, s0_3=2.0).items()}
    assert implausible(alone | together, LAST) == [(3, 8)]


def test_a_cut_may_cost_a_fifth_and_no_more() -> None:
    for factor, doubted in ((TOO_LONG - 0.01, []), (TOO_LONG + 0.01, [(5, 1)])):
        assert implausible(times([1.0] * LAST, s0_5=factor), LAST) == doubted


def test_of_what_was_not_measured_nothing_is_doubted() -> None:
    assert implausible({}, LAST) == []
    assert implausible({(Segment(0, 5), 1): 1.0, (Segment(0, 2), 8): 9.0}, LAST) == []
