"""A framed message is the message."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.framing import Framed, serialize
from services.pb.offramp.v1 import tier_pb2 as pb


@given(
    request_id=st.text(max_size=20),
    at=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    parameters=st.binary(max_size=200),
    payload=st.one_of(st.binary(max_size=300), st.sampled_from([b"x" * 127, b"x" * 128, b"x" * 20_000])),
)
def test_framing_gives_the_bytes_that_protobuf_gives(
    request_id: str, at: int, shape: list[int], parameters: bytes, payload: bytes
) -> None:
    header = pb.InferRequest(request_id=request_id, at=at, plan=pb.Plan(stages=[pb.Stage(start=1, end=2)]))
    activation = pb.Activation(shape=shape, parameters=parameters, crc32c=7, dtype=pb.DATA_TYPE_FP32)
    framed = serialize(Framed(header, activation, payload))
    header.activation.CopyFrom(activation)
    header.activation.payload = payload
    assert framed == header.SerializeToString()
