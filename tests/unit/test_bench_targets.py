"""The statistics behind the table of targets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import targets
from benchmarks.targets import Row, ratios, row, spread

POSITIVE = st.floats(1e-3, 1e6)


def test_few_values_are_spread_to_their_extremes() -> None:
    assert spread([3.0, 1.0, 2.0]) == (1.0, 2.0, 3.0)


def test_many_values_are_spread_to_their_quartiles() -> None:
    assert spread([float(value) for value in range(101)]) == (25.0, 50.0, 75.0)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing"):
        spread([])


@given(st.lists(POSITIVE, min_size=1, max_size=30))
def test_the_median_lies_within_the_spread(values: list[float]) -> None:
    low, middle, high = spread(values)
    assert min(values) <= low <= middle <= high <= max(values)


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_rounds_that_are_missing_are_not_passed_over() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(("bound", "met"), [("at most", False), ("at least", True)])
def test_a_target_is_met_on_its_own_side(bound: targets.Bound, met: bool) -> None:
    assert Row("it", bound, 1.0, 1.2, 1.1, 1.3).met is met
    assert Row("it", bound, 1.0, 1.0, 1.0, 1.0).met


def test_what_is_no_number_meets_no_target() -> None:
    assert not Row("it", "at least", 1.0, math.inf, 1.0, 1.0).met
    assert not Row("it", "at most", 1.0, math.nan, 1.0, 1.0).met


def test_what_a_row_is_off_by_is_a_share_of_its_target() -> None:
    assert row("it", "at most", 2.0, [3.0]).missed_by == pytest.approx(0.5)
    assert row("it", "at least", 0.8, [0.4]).missed_by == pytest.approx(0.5)
    assert row("it", "at least", 0.8, [0.9]).missed_by == 0.0


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [row("one", "at most", 1.0, [0.5, 2.0, 4.0], "s", "a note"), row("two", "at least", 1.0, [3.0])]
    targets.write(tmp_path / "out" / "rows.json", rows, failed={})
    found = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert targets.from_json(found["rows"]) == rows
    assert [each["met"] for each in found["rows"]] == [False, True]
