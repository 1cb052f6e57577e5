"""What is believed after answers and what tiers tell of themselves, in the order in which they came."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_agent.known import Known
from services.bundle import Manifest
from services.domain import LinkEstimate, Tier, TierProfile
from tests.replans import FAST, SLOW, UNKNOWN, profile_of, told

WHOLE = profile_of(Tier.DEVICE, 0.1, 3)
LATELY = TierProfile(Tier.DEVICE, queue_seconds=0.2, slowdown=5.0)


@pytest.fixture
def known(manifest: Manifest) -> Known:
    found = Known(manifest)
    found.told([WHOLE], [])
    return found


def test_an_answer_says_how_loaded_a_machine_is_and_nothing_else(known: Known) -> None:
    known.answered(told(profiles=(LATELY,)))
    assert known.beliefs().profiles == {Tier.DEVICE: replace(WHOLE, queue_seconds=0.2, slowdown=5.0)}


def test_what_a_tier_tells_of_itself_outdoes_an_answer_that_came_before(known: Known) -> None:
    known.answered(told(FAST, profiles=(LATELY,)))
    known.told([WHOLE], [SLOW])
    found = known.beliefs()
    assert found.profiles[Tier.DEVICE] == WHOLE
    assert found.links[Tier.DEVICE] == SLOW


def test_answers_from_here_do_not_hide_what_one_from_further_away_said(known: Known) -> None:
    edge = profile_of(Tier.EDGE, 0.01, 3)
    known.told([edge], [])
    above = TierProfile(Tier.EDGE, slowdown=3.0)
    known.answered(told(FAST, profiles=(LATELY, above)))
    known.answered(told(SLOW, profiles=(replace(LATELY, slowdown=2.0),)))
    found = known.beliefs()
    assert [found.profiles[tier].slowdown for tier in (Tier.DEVICE, Tier.EDGE)] == [2.0, 3.0]
    assert found.links[Tier.DEVICE] == SLOW


def test_a_machine_that_told_nothing_of_itself_is_not_known_by_its_load(known: Known) -> None:
    known.answered(told(profiles=(LATELY, TierProfile(Tier.EDGE, slowdown=3.0))))
    assert list(known.beliefs().profiles) == [Tier.DEVICE]


def test_parts_that_are_told_again_stay_the_same_objects(known: Known) -> None:
    before = known.beliefs().profiles[Tier.DEVICE]
    known.told([profile_of(Tier.DEVICE, 0.1, 3)], [])
    assert known.beliefs().profiles[Tier.DEVICE].segments is before.segments


def test_at_its_best_a_link_is_as_short_as_it_ever_was_and_one_that_nobody_knows_might_be_anything(
    known: Known,
) -> None:
    for link in (LinkEstimate(Tier.DEVICE, 0.02, 1e5), LinkEstimate(Tier.DEVICE, 0.3, 1e5), UNKNOWN):
        known.told([], [link])
        known.beliefs()
    links = known.at_best().links
    assert [links[tier].rtt_seconds for tier in (Tier.DEVICE, Tier.EDGE)] == [0.02, 0.0]
    assert all((link.up_bytes_per_second or 0.0) >= 1e9 for link in links.values())
    assert known.beliefs().links[Tier.DEVICE] == UNKNOWN
