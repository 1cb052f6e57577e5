"""Dynamic Split Computing: counts from the tables, and the equations of its maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.dsc import (
    BATCHES,
    PAPER_RATES,
    WIDE_RATES,
    Measured,
    compressive,
    efficientnets,
    end_to_end,
    findings,
    gains,
)

POSITIVE = st.floats(1e-4, 1e2)


def measured(whole: float = 0.012, heads: tuple[float, ...] = (0.004, 0.008), elements: int = 1000) -> Measured:
    """A network whose time and bytes grow with the batch; c halves at each split."""
    batches = np.array(BATCHES, float)
    ratios = tuple(0.5 ** (k + 1) for k in range(len(heads)))
    head = np.array(heads)[:, None] * batches
    return Measured(
        "m", elements, tuple(range(1, len(heads) + 1)), ratios, whole * batches, head, whole * batches - head
    )


def test_natural_and_compressive_bottlenecks_span_what_the_paper_reports() -> None:
    found = efficientnets()
    assert len(found) == 15
    assert (min(f.natural for f in found), max(f.natural for f in found)) == (15, 68)
    assert {f.compressive for f in found} == {3, 4}


def test_as_many_elements_as_the_input_is_no_bottleneck() -> None:
    b7 = next(f for f in efficientnets() if f.model == "efficientnet-b7")
    assert sum(ratio == 1 for ratio in b7.ratios) == 7
    assert b7.natural == sum(ratio < 1 for ratio in b7.ratios) == 44


def test_ratios_of_b0_are_those_of_its_stages() -> None:
    ratios = efficientnets()[0].ratios
    assert len(ratios) == 16
    assert compressive(ratios) == [2, 4, 6, 12]
    assert [round(ratios[number - 1], 4) for number in (2, 4, 6, 12)] == [0.5, 0.2083, 0.1042, 0.0625]


@given(st.lists(POSITIVE, max_size=30))
def test_compressive_blocks_shrink_from_one_to_the_next(ratios: list[float]) -> None:
    kept = [ratios[number - 1] for number in compressive(ratios)]
    assert all(b < a for a, b in zip([1.0, *kept], kept, strict=False))
    assert (min(ratios, default=1.0) < 1) == bool(kept)


def test_times_are_those_of_the_equations() -> None:
    times = end_to_end(measured(), slowdown=10, rates=(1e5,), element_bytes=4)
    assert times.shape == (4, 1, 15)
    np.testing.assert_allclose(times[:, 0, 0], [0.12, 0.012 + 0.01, 0.04 + 0.008 + 0.02, 0.08 + 0.004 + 0.01])
    np.testing.assert_allclose(times[:, 0, 14], 15 * times[:, 0, 0])


@given(st.floats(1e3, 1e9), st.floats(1, 100), st.floats(0.1, 1))
def test_a_split_beats_full_offload_exactly_below_its_break_even(rate: float, slowdown: float, width: float) -> None:
    found = measured()
    times = end_to_end(found, slowdown, (rate,), width)[:, 0, 0]
    head, tail, server = found.heads[1, 0], found.tails[1, 0], found.whole[0]
    fewer = found.input_elements * (1 - width * found.ratios[1])
    extra = slowdown * head + tail - server
    if abs(rate * extra - fewer) > 1e-6 * fewer:
        assert (times[3] < times[1]) == (rate * extra < fewer)


@given(st.floats(1, 50), POSITIVE, st.sampled_from([1.0, 4.0]))
def test_choosing_is_never_worse_than_any_static_option(slowdown: float, whole: float, width: float) -> None:
    times = end_to_end(measured(whole, (whole / 3, whole / 2)), slowdown, WIDE_RATES, width)
    saved = gains(times)
    assert saved.min() >= 0
    assert saved.max() < 1
    np.testing.assert_array_equal(saved.min(axis=0), 0)


def test_findings_add_up() -> None:
    found = measured()
    summed = findings(found.options, end_to_end(found, 8, WIDE_RATES, 1))
    assert sum(summed.optimal_share) == pytest.approx(1)
    assert summed.split_share == pytest.approx(sum(summed.optimal_share[2:]))
    assert summed.options == ("device", "offload", "block 1", "block 2")
    assert 0 < summed.gain_over_splits < 1


def test_on_a_link_without_end_everything_is_offloaded_and_on_none_nothing() -> None:
    found = measured()
    assert findings(found.options, end_to_end(found, 8, (1e15,), 1)).optimal_share[1] == 1
    assert findings(found.options, end_to_end(found, 8, (1.0,), 1)).optimal_share[0] == 1


def test_the_grid_is_the_papers_and_one_below() -> None:
    assert (PAPER_RATES[0], PAPER_RATES[-1], len(PAPER_RATES)) == (1e6, 127e6, 127)
    assert tuple(range(1, 16)) == BATCHES
    assert WIDE_RATES[0] < PAPER_RATES[0]
