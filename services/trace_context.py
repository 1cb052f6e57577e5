"""Where a request belongs in its caller's trace: W3C Trace Context, level 1, as text. Knows no tracing library.

A tier that records takes the context it was given as the parent of its own span, and hands on one that names that
span; a tier that does not hands on what it was given. The ids of a tier's spans follow from the context, the request
and the tier, so that nothing has to be remembered between the request's way up and its answer.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.domain import Request, Tier

KEY = "traceparent"
_FORMAT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED = 1
_NOBODY = "0" * 16

Metadata = Iterable[tuple[str, str | bytes]] | None
Begin = Callable[[], str]
"""Makes the context of a request whose caller sent none; empty where nothing is recorded."""

HandOn = Callable[[Request], str]
"""The context for the tier above."""


@dataclass(frozen=True, slots=True)
class Parent:
    """What a context says: the trace, the span that called (0: none did), and whether the trace is recorded."""

    trace_id: int
    span_id: int
    sampled: bool


def parse(text: str) -> Parent | None:
    """None for what is no context of version 00, which counts as none given."""
    found = _FORMAT.fullmatch(text)
    if found is None:
        return None
    trace, span, flags = found.groups()
    return Parent(int(trace, 16), int(span, 16), bool(int(flags, 16) & _SAMPLED))


def accepted(text: str) -> str:
    """`text` where a caller may send it, else nothing: what is no context, or names no caller, counts as none given."""
    parent = parse(text) if text else None
    return text if parent is not None and parent.span_id else ""


def given(metadata: Metadata) -> str:
    """The context in a call's metadata; empty where there is none, or more than one."""
    found = [value for key, value in metadata or () if key == KEY]
    return accepted(found[0]) if len(found) == 1 and isinstance(found[0], str) else ""


def nothing() -> str:
    """The beginning of no trace."""
    return ""


def begin() -> str:
    """A recorded trace that begins here. It names no caller, which only our own side of the door may see."""
    return f"00-{os.urandom(16).hex()}-{_NOBODY}-01"


def span_id(context: str, request_id: str, tier: Tier, name: str) -> int:
    """The id of one span of a tier: 64 bits that nobody else comes upon, never 0."""
    digest = hashlib.blake2b(f"{context} {tier.label} {name} {request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") or 1


def unchanged(request: Request) -> str:
    """What a tier that does not record hands on: what it was given."""
    return request.traceparent


def from_tier(tier: Tier) -> HandOn:
    """What a tier that records hands on: the same trace, called from its own `network` span."""

    def hand_on(request: Request) -> str:
        context, parent = request.traceparent, parse(request.traceparent)
        if parent is None:
            return context
        ours = span_id(context, request.request_id, tier, "network")
        return f"00-{parent.trace_id:032x}-{ours:016x}-{int(parent.sampled):02x}"

    return hand_on
