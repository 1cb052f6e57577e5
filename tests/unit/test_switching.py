from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest

from device_agent.switching import Switcher, SwitchRule

STEP_SECONDS = 0.1


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _rested() -> tuple[Switcher, _Clock]:
    clock = _Clock()
    switcher = Switcher(SwitchRule(), clock)
    switcher.switched(1.0)
    clock.now = 10.0
    return switcher, clock


def test_a_plan_that_cannot_run_any_more_is_left_at_once() -> None:
    switcher, clock = _rested()
    clock.now = 0.01
    assert switcher.due(None, 100.0)


def test_the_first_plan_was_not_chosen_and_is_left_at_once() -> None:
    assert Switcher(SwitchRule(), _Clock()).due(1.2, 1.0)


def test_a_plan_that_the_link_made_worse_is_left_at_once() -> None:
    switcher, _ = _rested()
    assert switcher.due(1.2, 1.0)


def test_a_better_plan_waits_until_two_decisions_agree() -> None:
    switcher, _ = _rested()
    assert [switcher.due(1.0, 0.5) for _ in range(2)] == [False, True]


def test_one_decision_that_disagrees_starts_the_count_anew() -> None:
    switcher, _ = _rested()
    costs = [(1.0, 0.5), (1.0, 1.0), (1.0, 0.5), (1.0, 1.0), (1.0, 0.5)]
    assert not any(switcher.due(*cost) for cost in costs)


def test_decisions_that_find_nothing_better_start_the_count_anew() -> None:
    switcher, _ = _rested()
    for _ in range(3):
        assert not switcher.due(1.0, 0.5)
        switcher.kept(1.0)


def test_a_plan_that_was_the_best_at_a_lower_cost_than_at_the_switch_is_left_at_once_when_it_gets_worse() -> None:
    switcher, _ = _rested()
    switcher.kept(0.5)
    assert switcher.due(0.9, 0.7)


def test_a_gain_within_the_margin_is_no_reason() -> None:
    switcher, _ = _rested()
    assert not any(switcher.due(1.0, 0.96) for _ in range(100))


def test_soon_after_a_switch_only_a_collapse_is_a_reason() -> None:
    switcher, clock = _rested()
    switcher.switched(1.0)
    clock.now += 1.0
    assert not switcher.due(1.2, 1.0)
    assert switcher.due(1.3, 1.0)


def test_the_first_choice_of_all_is_corrected_sooner_and_the_next_is_not() -> None:
    clock = _Clock()
    switcher = Switcher(SwitchRule(), clock)
    assert switcher.due(1.5, 1.0)
    switcher.switched(1.0)
    clock.now += 1.0
    assert not any(switcher.due(1.0, 0.96) for _ in range(3))
    assert [switcher.due(1.0, 0.85) for _ in range(2)] == [False, True]
    switcher.switched(0.85)
    clock.now += 1.0
    assert not any(switcher.due(0.85, 0.72) for _ in range(3))


def test_what_made_it_flee_may_be_over_soon_and_then_the_way_back_is_shorter() -> None:
    switcher, clock = _rested()
    clock.now = 100.0
    assert switcher.due(2.0, 1.0)
    switcher.switched(1.0)
    clock.now += 1.0
    assert [switcher.due(1.0, 0.85) for _ in range(2)] == [False, True]
    switcher.switched(0.85)
    clock.now += 1.0
    assert not any(switcher.due(0.85, 0.75) for _ in range(3))


@dataclass(frozen=True, slots=True)
class Sawtooth:
    """A link that saw-tooths around rate 1, where two plans cost the same; what following it came to.

    switches: when. flights: how much worse the plan was that each of them left. lost: of what the best would have cost.
    """

    switches: list[float]
    flights: list[float]
    lost: float

    @classmethod
    def followed(cls, amplitude: float, period: float) -> Sawtooth:
        """For ten minutes, by one that was at it before: split costs 0.08 + 0.02 / rate, offload 0.06 + 0.04 / rate."""
        on_split = True
        switcher, clock = _rested()
        switcher.switched(0.1)
        clock.now += 10
        began = clock.now
        switches, flights, paid, possible = list[float](), list[float](), 0.0, 0.0
        for step in range(6000):
            clock.now = began + step * STEP_SECONDS
            rate = 1 + amplitude * (2 * (step * STEP_SECONDS / period % 1) - 1)
            split, offload = 0.08 + 0.02 / rate, 0.06 + 0.04 / rate
            current, best = (split if on_split else offload), min(split, offload)
            paid, possible = paid + current, possible + best
            if current == best:
                switcher.kept(best)
            elif switcher.due(current, best):
                on_split = not on_split
                switcher.switched(best)
                switches.append(clock.now)
                flights.append(current / best)
        return cls(switches, flights, paid / possible - 1)


@pytest.mark.parametrize("period", [1.0, 2.0, 7.0, 20.0, 60.0])
@pytest.mark.parametrize("amplitude", [0.2, 0.4, 0.6])
def test_on_a_sawtooth_around_a_break_even_it_switches_at_most_every_five_seconds_and_loses_under_ten_percent(
    amplitude: float, period: float
) -> None:
    found = Sawtooth.followed(amplitude, period)
    assert min((b - a for a, b in pairwise(found.switches)), default=math.inf) >= 5
    assert found.lost < 0.10


def test_a_slow_sawtooth_is_followed() -> None:
    assert len(Sawtooth.followed(0.6, 60.0).switches) >= 15


@pytest.mark.parametrize("period", [2.0, 7.0, 20.0])
def test_where_staying_would_cost_a_quarter_it_loses_under_ten_percent_and_switches_for_no_less(period: float) -> None:
    found = Sawtooth.followed(0.8, period)
    hasty = [left for (a, b), left in zip(pairwise(found.switches), found.flights[1:], strict=True) if b - a < 5]
    assert found.lost < 0.10
    assert min(hasty, default=math.inf) >= 1.1
    assert max(hasty, default=math.inf) >= 1.25
