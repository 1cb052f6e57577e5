"""Serialising an InferRequest around its payload instead of through it.

The payload is the last field of the last field, so a message's bytes are its header, two lengths, and the payload
as it lies in memory: one copy, where setting the field and serialising makes three. Any protobuf peer reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.pb.offramp.v1 import tier_pb2 as pb

_LAST_FIELD = bytes([15 << 3 | 2])  # field 15, length-delimited: `activation`, and in it `payload`


@dataclass(frozen=True, slots=True)
class Framed:
    """An InferRequest in parts: without its activation, the activation without its payload, the payload."""

    header: pb.InferRequest
    activation: pb.Activation
    payload: bytes | memoryview


def serialize(framed: Framed) -> bytes:
    """The bytes that protobuf makes of the whole message."""
    head = framed.activation.SerializeToString()
    prefix = _LAST_FIELD + _varint(len(framed.payload)) if framed.payload else b""
    size = len(head) + len(prefix) + len(framed.payload)
    return b"".join((framed.header.SerializeToString(), _LAST_FIELD, _varint(size), head, prefix, framed.payload))


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
