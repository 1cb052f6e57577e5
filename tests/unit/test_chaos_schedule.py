"""What the schedule of a chaos run promises, whatever the seed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from testbed.chaos.faults import episodes
from testbed.chaos.schedule import KINDS, LINKS, LONGEST_SECONDS, QUIET_SECONDS, TIERS, Action, schedule

SEEDS = st.integers(0, 2**32 - 1)
LENGTHS = st.floats(1, 3600)


@given(SEEDS, LENGTHS)
def test_the_same_seed_is_the_same_schedule(seed: int, seconds: float) -> None:
    assert schedule(seed, seconds) == schedule(seed, seconds)


@given(SEEDS, LENGTHS, LENGTHS)
def test_a_longer_run_begins_as_a_shorter_one(seed: int, seconds: float, more: float) -> None:
    short = schedule(seed, seconds)
    assert schedule(seed, seconds + more)[: len(short)] == short


@given(SEEDS, LENGTHS)
def test_each_episode_leaves_time_to_recover_before_the_next_and_before_the_end(seed: int, seconds: float) -> None:
    found = episodes(schedule(seed, seconds))
    begins = [*(episode[0].at for episode in found[1:]), seconds]
    for episode, following in zip(found, begins, strict=False):
        assert max(fault.at + fault.room for fault in episode) + QUIET_SECONDS <= following + 0.01


@given(SEEDS, LENGTHS)
def test_faults_that_come_together_have_different_targets(seed: int, seconds: float) -> None:
    for episode in episodes(schedule(seed, seconds)):
        assert len({fault.target for fault in episode}) == len(episode) <= 2


@given(SEEDS)
def test_every_kind_comes_once_before_any_comes_again(seed: int) -> None:
    found = [(fault.action, fault.target) for fault in schedule(seed, 1800)]
    assert sorted(found[: len(KINDS)]) == sorted(KINDS)


@given(SEEDS, LENGTHS)
def test_tiers_and_links_suffer_what_can_happen_to_them_for_a_bounded_time(seed: int, seconds: float) -> None:
    for fault in schedule(seed, seconds):
        assert (fault.target in LINKS) == (fault.action in (Action.CUT, Action.SLOW, Action.FLAP))
        assert fault.target in (*TIERS, *LINKS)
        assert 0 <= fault.seconds <= LONGEST_SECONDS


def test_a_run_too_short_to_recover_in_has_no_faults() -> None:
    assert schedule(0, 5.0) == ()
