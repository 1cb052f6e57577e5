from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.bench.world import FastRate, Line
from testbed.pacer import LinkShape, Pacer
from testbed.traces import ConstantRate, RateTrace

_RATES = st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(lambda rates: max(rates) > 1e3)
_SENDS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 100_000)), min_size=1, max_size=6)


@settings(max_examples=50)
@given(_RATES, _SENDS)
def test_a_line_delivers_when_the_emulated_link_does(rates: list[float], sends: list[tuple[float, int]]) -> None:
    trace = RateTrace.from_rates(rates)
    line, pacer = Line(trace, 0.02), Pacer(LinkShape(trace, 0.02), 0.0, random.Random(0))
    now = 0.0
    for gap, size in sends:
        now += gap
        assert line.send(now, size) == pytest.approx(pacer.due(pacer.send(bytes(size), now)), abs=1e-6)


@settings(max_examples=50)
@given(_RATES, st.lists(st.tuples(st.floats(0, 50), st.integers(0, 10**7)), min_size=1, max_size=20))
def test_many_sends_at_once_finish_as_each_alone(rates: list[float], sends: list[tuple[float, int]]) -> None:
    trace = RateTrace.from_rates(rates)
    starts, sizes = (np.array(column, np.float64) for column in zip(*sends, strict=True))
    expected = [trace.finish(start, size) for start, size in zip(starts, sizes, strict=True)]
    assert FastRate(trace).finish(starts, sizes) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_constant_rate_is_fast_too() -> None:
    assert FastRate(ConstantRate(1000.0)).finish(np.array([2.5]), np.array([500.0])) == pytest.approx([3.0])


def test_an_outage_holds_what_is_sent_in_it() -> None:
    line = Line(RateTrace.from_rates([1000.0, 0.0, 0.0, 1000.0]), 0.0)
    assert line.send(1.5, 100) == pytest.approx(3.1)
