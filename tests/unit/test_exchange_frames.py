"""What is written by hand is read by any protobuf peer, what any peer writes is read, and garbage is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import exchange_frames, framing
from services.errors import InvalidInput, TooLarge
from services.framing import WORTH_BYTES, Framed
from services.pb.offramp.v1 import tier_pb2 as pb

PAYLOADS = st.one_of(
    st.binary(max_size=300), st.sampled_from([b"x" * size for size in (127, 128, WORTH_BYTES, WORTH_BYTES + 70_000)])
)
NUMBERS = st.integers(0, 2**64 - 1)
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def requests(draw: Any) -> pb.InferRequest:
    return pb.InferRequest(
        request_id=draw(st.text(max_size=20)),
        plan=pb.Plan(stages=[pb.Stage(start=1, end=2)]),
        at=draw(st.integers(0, 2**32 - 1)),
        thresholds=draw(st.lists(st.floats(width=32, allow_nan=False), max_size=3)),
        activation=pb.Activation(
            shape=draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5)),
            parameters=draw(st.binary(max_size=200)),
            crc32c=7,
            payload=draw(PAYLOADS),
        ),
    )


def in_parts(whole: pb.InferRequest) -> Framed:
    header, activation = pb.InferRequest(), pb.Activation()
    header.CopyFrom(whole)
    header.ClearField("activation")
    activation.CopyFrom(whole.activation)
    activation.ClearField("payload")
    return Framed(header, activation, memoryview(whole.activation.payload))


def whole(framed: Framed) -> pb.InferRequest:
    message = pb.InferRequest()
    message.CopyFrom(framed.header)
    message.activation.CopyFrom(framed.activation)
    message.activation.payload = bytes(framed.payload)
    return message


@patient
@given(calls=st.lists(st.tuples(NUMBERS, requests()), max_size=4), cancelled=st.lists(NUMBERS, max_size=4))
def test_the_generated_stubs_read_what_is_framed(
    calls: list[tuple[int, pb.InferRequest]], cancelled: list[int]
) -> None:
    data = exchange_frames.request([(number, in_parts(request)) for number, request in calls], cancelled)
    assert pb.ExchangeRequest.FromString(data) == pb.ExchangeRequest(
        calls=[pb.ExchangeCall(number=number, request=request) for number, request in calls], cancelled=cancelled
    )


@patient
@given(calls=st.lists(st.tuples(NUMBERS, requests()), max_size=4), cancelled=st.lists(NUMBERS, max_size=4))
def test_what_the_generated_stubs_write_is_read(calls: list[tuple[int, pb.InferRequest]], cancelled: list[int]) -> None:
    written = pb.ExchangeRequest(
        calls=[pb.ExchangeCall(number=number, request=request) for number, request in calls], cancelled=cancelled
    )
    asked = exchange_frames.read_request(written.SerializeToString())
    assert [(call.number, whole(call.framed)) for call in asked.calls] == calls
    assert [call.nbytes for call in asked.calls] == [call.ByteSize() for call in written.calls]
    assert list(asked.cancelled) == cancelled


@patient
@given(requests())
def test_a_single_request_is_read_as_the_stubs_read_it(request: pb.InferRequest) -> None:
    assert whole(Framed.FromString(request.SerializeToString())) == request
    assert framing.serialize(in_parts(request)) == request.SerializeToString()


def test_a_large_payload_is_not_copied() -> None:
    request = pb.InferRequest(activation=pb.Activation(payload=bytes(1 << 20)))
    data = pb.ExchangeRequest(calls=[pb.ExchangeCall(number=1, request=request)]).SerializeToString()
    ((_, framed, _),) = exchange_frames.read_request(data).calls
    assert isinstance(framed.payload, memoryview)
    assert framed.payload.obj is data


def test_fields_in_another_order_or_twice_are_read_as_the_stubs_do() -> None:
    first = pb.InferRequest(activation=pb.Activation(shape=[1], payload=bytes(WORTH_BYTES))).SerializeToString()
    second = pb.InferRequest(request_id="r", activation=pb.Activation(shape=[2], payload=b"new")).SerializeToString()
    body = first + second
    framed = Framed.FromString(body)
    assert whole(framed) == pb.InferRequest.FromString(body)
    call = b"\x7a" + framing.varint(len(body)) + body + b"\x08\x05"  # the request before its number
    ((number, read, _),) = exchange_frames.read_request(b"\x0a" + framing.varint(len(call)) + call).calls
    assert (number, whole(read)) == (5, pb.InferRequest.FromString(body))


@patient
@given(st.binary(max_size=400))
def test_garbage_is_read_as_the_stubs_read_it_or_refused(data: bytes) -> None:
    try:
        asked = exchange_frames.read_request(data)
    except InvalidInput:
        return
    expected = pb.ExchangeRequest.FromString(data)
    assert [call.number for call in asked.calls] == [call.number for call in expected.calls]
    assert list(asked.cancelled) == list(expected.cancelled)


@patient
@given(calls=st.lists(st.tuples(NUMBERS, requests()), min_size=1, max_size=2), data=st.data())
def test_a_damaged_message_is_read_as_the_stubs_read_it_or_refused(
    calls: list[tuple[int, pb.InferRequest]], data: st.DataObject
) -> None:
    message = bytearray(exchange_frames.request([(number, in_parts(request)) for number, request in calls]))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(message) - 1, 300)))
        message[at] = data.draw(st.integers(0, 255))
    del message[data.draw(st.integers(len(message) // 2, len(message))) :]
    try:
        asked = exchange_frames.read_request(bytes(message))
    except (InvalidInput, TooLarge):
        return
    expected = pb.ExchangeRequest.FromString(bytes(message))
    assert [(number, whole(framed)) for number, framed, _ in asked.calls] == [
        (call.number, whole(Framed.of(call.request))) for call in expected.calls
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x00" * (exchange_frames.MAX_CALLS + 1),
        b"\x10\x01" * (1 << 15),
        b"\x12\xff\xff\x3f" + bytes(0xFFFFF),
        b"\x18\x01" * (1 << 20),
    ],
)
def test_a_message_of_too_many_parts_is_refused_before_they_are_made(data: bytes) -> None:
    with pytest.raises((TooLarge, InvalidInput)):
        exchange_frames.read_request(data)


@patient
@given(number=NUMBERS, body=st.binary(max_size=300), leaving=st.booleans())
def test_the_generated_stubs_read_outcomes(number: int, body: bytes, leaving: bool) -> None:
    reply = pb.InferReply(predictions=pb.Predictions(scores=body))
    written = [exchange_frames.outcome(number, reply.SerializeToString()), exchange_frames.outcome(number, None, body)]
    read = pb.ExchangeReply.FromString(exchange_frames.reply(written, leaving))
    assert read.leaving == leaving
    assert [outcome.number for outcome in read.outcomes] == [number, number]
    assert read.outcomes[0].reply == reply
    assert read.outcomes[1].status == body
    assert [outcome.WhichOneof("outcome") for outcome in read.outcomes] == ["reply", "status"]


def test_a_field_of_a_number_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidInput):
        exchange_frames.read_request(bytes.fromhex("e01708b5cee9d5107a0f1a06"))


def test_a_large_message_is_not_kept_for_the_sake_of_a_small_call() -> None:
    payload = bytes(WORTH_BYTES)
    framed = Framed(pb.InferRequest(), pb.Activation(), payload)
    other = Framed(pb.InferRequest(), pb.Activation(), bytes(1 << 20))
    small, large = (
        framed
        for _, framed, _ in exchange_frames.read_request(exchange_frames.request([(1, framed), (2, other)])).calls
    )
    assert isinstance(small.payload, bytes)
    assert isinstance(large.payload, memoryview)
    (alone,) = (call.framed for call in exchange_frames.read_request(exchange_frames.request([(1, framed)])).calls)
    assert isinstance(alone.payload, memoryview)
    assert small.payload == alone.payload == payload
