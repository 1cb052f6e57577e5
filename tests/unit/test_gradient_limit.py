"""The limit follows latency: it falls while requests wait for each other, and comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.gradient_limit import GradientLimit


def served(limit: GradientLimit, capacity: int, requests: int, seconds: float = 0.01) -> None:
    """A tier that runs `capacity` side by side: more than that wait for each other."""
    for _ in range(requests):
        held = limit.limit
        limit.finished(seconds * max(1.0, held / capacity), held)


def test_it_settles_near_what_the_tier_can_run_side_by_side() -> None:
    limit = GradientLimit(highest=500)
    served(limit, capacity=30, requests=20_900)
    assert 30 <= limit.limit <= 90


def test_it_grows_while_nobody_waits() -> None:
    limit = GradientLimit(highest=200)
    served(limit, capacity=10_000, requests=1900)
    assert limit.limit == 200


def test_it_falls_when_the_tier_slows_down() -> None:
    limit = GradientLimit(highest=200)
    served(limit, capacity=10_000, requests=1900)
    before = limit.limit
    for _ in range(20):
        limit.finished(1.0, limit.limit)
    assert limit.limit < before / 4


def test_what_is_far_below_the_limit_tells_nothing() -> None:
    limit = GradientLimit(highest=200)
    before = limit.limit
    for seconds in (0.01, 1.0, 0.001):
        limit.finished(seconds, 1)
    assert limit.limit == before


@given(st.lists(st.tuples(st.floats(allow_nan=True), st.integers(1, 1000)), max_size=300))
def test_it_stays_between_its_bounds_whatever_it_is_told(told: list[tuple[float, int]]) -> None:
    limit = GradientLimit(highest=100, lowest=2)
    for seconds, held in told:
        limit.finished(seconds, held)
        assert 2 <= limit.limit <= 100
