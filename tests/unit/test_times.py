"""What segments take, for batch sizes that were measured for some of them only."""

from __future__ import annotations

import weakref

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from device_agent import times
from services.domain import Segment, SegmentTime

POINTS, SIZES = 8, (1, 3, 8, 32)
_PAIRS = [(0, b) for b in range(1, POINTS)]
_SECONDS = st.one_of(st.none(), st.floats(1e-6, 1.0))


def on_a_line(wanted: float, known: dict[int, float]) -> float:
    """Between two that were measured, and beyond them in proportion: of one pair, as one would do it by hand."""
    sizes = sorted(known)
    within = min(max(wanted, sizes[0]), sizes[-1])
    return float(np.interp(within, sizes, [known[size] for size in sizes]) * wanted / within)


@given(st.lists(_SECONDS, min_size=len(_PAIRS) * len(SIZES), max_size=len(_PAIRS) * len(SIZES)))
def test_each_head_is_filled_in_from_the_sizes_that_it_was_measured_in(seconds: list[float | None]) -> None:
    cells = [(size, a, b) for size in SIZES for a, b in _PAIRS]
    told = {cell: s for cell, s in zip(cells, seconds, strict=True) if s is not None}
    segments = tuple(SegmentTime(Segment(a, b), size, s) for (size, a, b), s in told.items())
    sizes, table = times.measured(times.Same(segments), POINTS)
    assert sizes.tolist() == sorted({size for size, _, _ in told})
    for a, b in _PAIRS:
        known = {size: s for (size, *at), s in told.items() if at == [a, b]}
        if known:
            assert np.allclose(table[:, a, b], [on_a_line(size, known) for size in sizes], rtol=1e-9)


def test_many_batch_sizes_are_told_apart() -> None:
    """More than a machine word has bits."""
    sizes = range(1, 81)
    segments = tuple(
        SegmentTime(Segment(0, b), size, 0.02 * size) for size in sizes for b in (1, 2) if b == 1 or size > 9
    )
    found, table = times.measured(times.Same(segments), 3)
    assert found.tolist() == list(sizes)
    assert np.allclose(table[:, 0, 1], 0.02 * np.array(sizes))
    assert np.allclose(table[:, 0, 2], 0.02 * np.array(sizes))


def test_what_machines_told_long_ago_is_not_kept() -> None:
    told = [(SegmentTime(Segment(0, 1), 1, seconds),) for seconds in range(1, 61)]
    tables = [weakref.ref(times.measured(times.Same(each), POINTS)[1]) for each in told]
    assert sum(table() is not None for table in tables) <= 6
