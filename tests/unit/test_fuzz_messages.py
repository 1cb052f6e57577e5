"""Damaged messages through everything that reads them: a value, or an error that has a status."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from services import codec, exchange_frames, screening, wire
from services.bundle import InputSpec
from services.errors import InternalError, InvalidInput, TooLarge
from services.framing import Framed
from services.open_inference import messages
from services.open_inference.tensors import read_input
from services.pb.offramp.v1 import tier_pb2 as pb
from services.response import Response
from services.wire_beliefs import description_from_pb, profile_to_pb
from tests.calls import asking
from tests.mutation import PIXELS, damaged, outcome, reply, request

SPEC = InputSpec(name="input", shape=(1, 8, 8), preprocessing=PIXELS)
RAMP = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 1, 8, 8)
SHADES = np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
_EXAMPLES = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def request_in(data: bytes) -> object:
    """As a tier reads it, but for what needs a model."""
    framed = screening.parse(Framed, data, small=0)
    wire.plan_from_pb(framed.header.plan)
    payload = wire.payload_from_pb(framed.activation, framed.payload)
    return codec.at(payload.codec, framed.header.at, PIXELS).decode(payload)


@_EXAMPLES
@given(damaged(request()))
def test_a_damaged_request_is_read_or_refused(data: bytes) -> None:
    outcome(lambda: request_in(data), InvalidInput, TooLarge)


@_EXAMPLES
@given(damaged(exchange_frames.request([(1, Framed.FromString(request())), (2, Framed.FromString(request()))], (7, 8))))
def test_a_damaged_message_of_an_exchange_is_read_or_refused(data: bytes) -> None:
    outcome(lambda: exchange_frames.read_request(data), InvalidInput, TooLarge)


@_EXAMPLES
@given(damaged(reply()))
def test_a_damaged_reply_is_an_answer_or_an_error_of_the_tier_above(data: bytes) -> None:
    message = screening.reply(pb.InferReply)(data)
    found = outcome(lambda: wire.response_from_pb(message, 2, 4), InternalError) if message is not None else None
    if found is not None:
        assert isinstance(found, Response)
        assert len(found.predictions) == 2
        assert np.isfinite(found.predictions.scores).all()
        assert np.isfinite(found.trace.seconds)


@_EXAMPLES
@given(
    damaged(
        pb.DescribeReply(
            model_hash="f" * 64,
            profile=pb.InferReply.FromString(reply()).profiles[0],
            above=pb.InferReply.FromString(reply()).profiles[1:],
            links=pb.InferReply.FromString(reply()).links,
        ).SerializeToString()
    )
)
def test_a_damaged_description_is_one_or_an_error_of_the_tier_above(data: bytes) -> None:
    message = screening.reply(pb.DescribeReply)(data)
    found = outcome(lambda: description_from_pb(message), InternalError) if message is not None else None
    for profile in found.profiles if found is not None else ():
        profile_to_pb(profile)  # what is believed is passed on


@pytest.mark.parametrize("whole", [asking(RAMP), asking(RAMP, raw=False), asking(SHADES), asking(SHADES, raw=False)])
def test_a_damaged_question_is_read_or_refused(whole: Any) -> None:
    @_EXAMPLES
    @given(damaged(whole.SerializeToString()))
    def check(data: bytes) -> None:
        def read() -> Any:
            return read_input(screening.parse(messages.ModelInferRequest, data, small=0), SPEC, 16)

        samples = outcome(read, InvalidInput, TooLarge)
        if samples is not None:
            assert (samples.shape[1:], samples.dtype) == (SPEC.shape, np.float32)
            assert np.isfinite(samples).all()

    check()
