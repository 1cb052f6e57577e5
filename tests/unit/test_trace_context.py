"""W3C Trace Context: what counts as one, and what a tier hands on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import trace_context
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.trace_context import Parent, accepted, begin, from_tier, parse, span_id, unchanged
from tests.journeys import samples

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def request(traceparent: str, request_id: str = "r") -> Request:
    plan = Plan((Stage(Tier.DEVICE, Segment(0, 8)),))
    return Request(request_id, "", plan, 0, samples(1), Deadline(0.0), traceparent=traceparent)


def test_a_context_is_read() -> None:
    assert parse(GOOD) == Parent(int(TRACE, 16), int(SPAN, 16), True)
    assert parse(GOOD[:-2] + "00") == Parent(int(TRACE, 16), int(SPAN, 16), False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.upper(),
        GOOD + "-x",
        GOOD[:-1],
        "01" + GOOD[2:],
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f" {GOOD}",
        f"{GOOD}\n",
    ],
)
def test_what_is_no_context_counts_as_none(text: str) -> None:
    assert accepted(text) == ""
    assert trace_context.given([("traceparent", text)]) == ""


@given(st.text(max_size=80))
def test_nothing_that_a_caller_sends_is_handed_on_unless_it_is_a_context(text: str) -> None:
    assert accepted(text) in ("", text)
    assert from_tier(Tier.EDGE)(request(accepted(text))) in ("", accepted(text)) or parse(text) is not None


def test_of_two_contexts_in_the_metadata_neither_counts() -> None:
    assert trace_context.given([("other", "x"), ("traceparent", GOOD)]) == GOOD
    assert trace_context.given([("traceparent", GOOD), ("traceparent", GOOD)]) == ""
    assert trace_context.given([("traceparent", b"\x00")]) == ""
    assert trace_context.given(None) == ""


def test_a_tier_that_does_not_record_hands_on_what_it_was_given() -> None:
    assert unchanged(request(GOOD)) == GOOD


def test_a_tier_that_records_hands_on_its_own_span_of_the_same_trace() -> None:
    handed = parse(from_tier(Tier.EDGE)(request(GOOD)))
    assert handed == Parent(int(TRACE, 16), span_id(GOOD, "r", Tier.EDGE, "network"), True)


def test_a_trace_that_is_not_recorded_stays_so() -> None:
    assert from_tier(Tier.EDGE)(request(GOOD[:-2] + "00")).endswith("-00")


def test_a_trace_that_begins_here_names_no_caller_and_reaches_the_wire_as_any_other() -> None:
    first, second = begin(), begin()
    assert first != second
    parent = parse(first)
    assert parent is not None
    assert (parent.span_id, parent.sampled) == (0, True)
    assert accepted(first) == ""  # nobody outside may say so
    handed = from_tier(Tier.DEVICE)(request(first))
    assert accepted(handed) == handed


@given(st.sampled_from(list(Tier)), st.sampled_from(["infer", "network", "queue"]), st.text(max_size=20))
def test_ids_of_spans_are_64_bits_and_differ(tier: Tier, name: str, request_id: str) -> None:
    ours = span_id(GOOD, request_id, tier, name)
    assert 0 < ours < 1 << 64
    assert ours != span_id(GOOD, request_id + "x", tier, name)
    assert ours != span_id(GOOD, request_id, tier, name + "x")
