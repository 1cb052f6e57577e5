"""Messages and payloads that were right, and then were not: what damage, bugs and malice make of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from services import codec, wire
from services.bundle import Preprocessing
from services.domain import DegradedReason, LinkEstimate, Payload, Plan, Segment, Stage, Tier, TierProfile
from services.pb.offramp.v1 import tier_pb2 as pb
from services.response import HopTrace, Predictions, Response, Trace

PIXELS = Preprocessing(mean=(0.5,), std=(0.25,))
_ODD_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` after up to five wounds: bytes changed, taken away, put in, doubled; or the end cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(("change", "remove", "insert", "double", "cut")))
        size = draw(st.integers(1, 16))
        if kind == "change":
            data[at : at + 1] = bytes([draw(st.sampled_from(_ODD_NUMBERS) | st.integers(0, 255))])
        elif kind == "remove":
            del data[at : at + size]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "double":
            data[at:at] = data[at : at + size]
        else:
            del data[at:]
    return bytes(data)


@cache
def payload(by: str) -> Payload:
    """A good payload: two inputs as images, or two activations with zeros, constants and a wide channel in them."""
    if by in codec.IMAGE:
        rows = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    else:
        rows = np.maximum(np.linspace(-1, 2, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5), 0)
        rows[:, 1] = 7.0
        rows[1, 2] *= 1e6
    encoded = codec.get(by, PIXELS).encode(rows)
    return replace(encoded, data=bytes(encoded.data))


@st.composite
def damaged_payloads(draw: st.DrawFn, by: str) -> Payload:
    """Data, parameters or shape damaged, and signed anew, so that no checksum saves the decoder."""
    found = payload(by)
    data = draw(st.just(bytes(found.data)) | damaged(bytes(found.data)))
    parameters = draw(st.just(found.parameters) | damaged(found.parameters)) if found.parameters else b""
    sizes = st.lists(st.integers(0, 64), min_size=len(found.shape), max_size=len(found.shape))
    shape = draw(st.just(found.shape) | sizes.map(tuple))
    return Payload(shape, by, data, parameters, codec.checksum(parameters, data))


@cache
def request() -> bytes:
    """A good InferRequest."""
    found = payload("int8")
    plan = Plan((Stage(Tier.DEVICE, Segment(0, 2)), Stage(Tier.EDGE, Segment(2, 8), "int8")), 0.1)
    activation = wire.payload_to_pb(found)
    activation.payload = bytes(found.data)
    return pb.InferRequest(
        request_id="r1",
        model_hash="f" * 64,
        plan=wire.plan_to_pb(plan),
        at=2,
        remaining_seconds=1.0,
        thresholds=[0.5, 0.5, 0.0],
        activation=activation,
    ).SerializeToString()


@cache
def reply() -> bytes:
    """A good InferReply to two samples of four classes."""
    predictions = Predictions(
        np.full((2, 4), 0.25, np.float32),
        np.full(2, 0.25, np.float32),
        np.array([1, 2], np.int32),
        np.array([Tier.EDGE, Tier.CLOUD], np.int32),
        np.array([DegradedReason.NONE, DegradedReason.DEADLINE], np.int32),
    )
    trace = Trace((HopTrace(Tier.EDGE, compute_seconds=0.1, bytes_up=7), HopTrace(Tier.CLOUD, queue_seconds=0.2)))
    profiles = (TierProfile(Tier.EDGE, 0.1, holds=Segment(0, 8)), TierProfile(Tier.CLOUD, 0.0, slowdown=2.0))
    links = (LinkEstimate(Tier.EDGE, 0.04, 1e6),)
    return wire.response_to_pb(Response(predictions, trace, profiles, links)).SerializeToString()


def outcome(work: Callable[[], Any], *allowed: type[Exception]) -> Any:
    """What `work` returns, or None where it raises what it may; anything else it raises is a failure."""
    try:
        return work()
    except allowed:
        return None
