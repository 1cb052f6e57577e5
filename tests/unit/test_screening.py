"""What a message may be made of, seen before it is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import screening
from services.errors import InvalidInput, OfframpError, TooLarge
from services.open_inference import messages
from services.pb.offramp.v1 import tier_pb2 as pb
from tests.calls import asking
from tests.e2e.bad_input import field, varint

MANY = screening.SMALL  # of at least two bytes each


def parsed(kind: Any, data: bytes) -> Any:
    """Looked through, however small."""
    return screening.parse(kind, data, small=0)


@pytest.mark.parametrize("raw", [True, False])
def test_a_message_is_read_as_protobuf_reads_it(raw: bool) -> None:
    data = asking(np.linspace(-1, 1, 640, dtype=np.float32).reshape(10, 1, 8, 8), raw=raw).SerializeToString()
    assert parsed(messages.ModelInferRequest, data) == messages.ModelInferRequest.FromString(data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (messages.ModelInferRequest, field(5, b"") * MANY),
        (messages.ModelInferRequest, field(5, field(5, field(8, b"") * MANY))),
        (messages.ModelInferRequest, field(5, field(5, field(3, b"\1" * (screening.MAX_NUMBERS + 1))))),
        (messages.ModelInferRequest, field(5, field(3, b"\1" * (screening.MAX_NUMBERS // 2 + 1))) * 2),
        (pb.InferRequest, field(3, field(1, b"") * MANY)),
        (pb.InferRequest, field(2047, b"") * MANY),
        (pb.InferReply, field(1, field(4, b"\1" * (screening.MAX_NUMBERS + 1)))),
    ],
)
def test_what_is_made_of_too_much_is_too_large(kind: Any, data: bytes) -> None:
    with pytest.raises(TooLarge):
        screening.parse(kind, data)
    kind.FromString(data)  # protobuf would have taken it


def test_payloads_are_not_counted_whatever_is_in_them() -> None:
    swarm = field(1, b"") * MANY
    request = pb.InferRequest(request_id="r", activation=pb.Activation(payload=swarm, parameters=swarm))
    assert screening.parse(pb.InferRequest, request.SerializeToString()) == request


def test_many_floats_are_no_more_than_their_bytes() -> None:
    data = field(5, field(5, field(6, bytes(8 << 20))))
    assert len(parsed(messages.ModelInferRequest, data).inputs[0].contents.fp32_contents) == 2 << 20


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 20, b"\x0b", b"\x0a\x05abc", b"\x08" + b"\x80" * 10 + b"\1", varint(1 << 3 | 5), b"\x0a\x02\xff\xfe"],
)
def test_what_is_no_message_is_invalid(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not valid protobuf"):
        parsed(pb.InferRequest, data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused_and_what_protobuf_refuses_is_refused(data: bytes) -> None:
    try:
        read = parsed(pb.InferRequest, data)
    except OfframpError:
        return
    assert read == pb.InferRequest.FromString(data) or "nan" in str(read)


def test_a_server_is_handed_what_went_wrong_without_what_it_went_wrong_with() -> None:
    error = screening.request(pb.InferRequest)(b"\xff")
    assert isinstance(error, InvalidInput)
    assert error.__traceback__ is None


def test_a_client_is_handed_nothing() -> None:
    assert screening.reply(pb.InferReply)(b"\xff") is None
    assert screening.reply(pb.InferReply)(field(3, b"") * (screening.MAX_REPLY_FIELDS + 1)) is None
    assert screening.reply(pb.InferReply)(b"") == pb.InferReply()
