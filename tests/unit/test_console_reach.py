"""Whether a link was lost, or merely nobody used it."""

from __future__ import annotations

from device_agent.console.reach import Reach
from services.domain import LinkEstimate, Tier

LOST = LinkEstimate(Tier.DEVICE)


def known(age_seconds: float) -> LinkEstimate:
    return LinkEstimate(Tier.DEVICE, 0.01, 1e6, age_seconds=age_seconds)


def test_a_link_is_lost_since_it_was_last_heard_of() -> None:
    reach = Reach()
    reach.look([known(0.5)], 100.0)
    reach.look([known(2.0)], 101.5)
    reach.look([LOST], 102.0)
    reach.look([LOST], 130.0)
    assert reach.lost_at() == {Tier.DEVICE: 99.5}


def test_a_link_that_is_back_is_lost_no_more() -> None:
    reach = Reach()
    reach.look([known(0.0)], 100.0)
    reach.look([LOST], 103.0)
    reach.look([known(0.0)], 104.0)
    assert not reach.lost_at()


def test_a_link_that_was_never_known_is_not_lost() -> None:
    reach = Reach()
    reach.look([LOST], 100.0)
    assert not reach.lost_at()


def test_a_link_forgotten_after_a_minute_of_silence_is_not_lost() -> None:
    reach = Reach()
    reach.look([known(0.0)], 100.0)
    reach.look([known(59.9)], 159.9)
    reach.look([LOST], 160.2)
    assert not reach.lost_at()
