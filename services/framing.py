"""Writing and reading an InferRequest around its payload instead of through it.

The payload is the last field of the last field, so a message's bytes are its header, two lengths, and the payload
as it lies in memory: one copy to write it, where setting the field and serialising makes three, and none to read it.
Any protobuf peer reads what is written here, and what any peer writes is read, if need be the ordinary way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import DecodeError

from services.pb.offramp.v1 import tier_pb2 as pb

Buffer = bytes | memoryview

BYTES = 2
"""The wire type of what brings its length."""
_LAST_KEY = 15 << 3 | BYTES
_LAST_FIELD = bytes([_LAST_KEY])
"""Field 15: `activation`, in it `payload`, and around them `request` of an ExchangeCall."""
WORTH_BYTES = 1 << 15
"""Below this, protobuf copies a payload faster than Python finds it."""
_MAX_FIELDS = 1 << 13
"""Looked at one by one; ours have ten, and one for each call of an exchange."""
_MAX_VARINT_BYTES = 10
_SIZES = {1: 8, 5: 4}
_KEYS = 1 << 32


@dataclass(frozen=True, slots=True)
class Framed:
    """An InferRequest in parts: all but its activation, the activation without its payload, the payload.

    One that was small when it came has its parts in the header as well; they are then not looked for there.
    """

    header: pb.InferRequest
    activation: pb.Activation
    payload: Buffer

    DESCRIPTOR = pb.InferRequest.DESCRIPTOR
    """Whoever looks through a message's bytes before it is read will find what it would in an InferRequest."""

    @property
    def nbytes(self) -> int:
        """What the codec made: parameters and payload, without the header."""
        return len(self.activation.parameters) + len(self.payload)

    @property
    def request_id(self) -> str:
        return str(self.header.request_id)

    @classmethod
    def of(cls, message: pb.InferRequest) -> Framed:
        return cls(message, message.activation, message.activation.payload)

    @classmethod
    def FromString(cls, data: Buffer) -> Framed:  # named as in the messages it stands in for
        """Reads an InferRequest; a large payload stays where it lies in `data`. Raises DecodeError."""
        found = _around_payload(data) if len(data) >= WORTH_BYTES else None
        return found or cls.of(pb.InferRequest.FromString(bytes(data)))


def serialize(framed: Framed) -> bytes:
    """The bytes that protobuf makes of the whole message."""
    return b"".join(parts(framed))


def parts(framed: Framed) -> tuple[Buffer, ...]:
    """What `serialize` joins."""
    head = framed.activation.SerializeToString()
    prefix = _LAST_FIELD + varint(len(framed.payload)) if framed.payload else b""
    size = len(head) + len(prefix) + len(framed.payload)
    return framed.header.SerializeToString(), _LAST_FIELD, varint(size), head, prefix, framed.payload


def varint(number: int) -> bytes:
    """`number` in groups of seven bits, lowest first."""
    if number < 0x80:
        return bytes((number,))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class Field(NamedTuple):
    """One field of a serialised message: its number and wire type, and where it, its value and what follows begin."""

    key: int
    at: int
    value: int
    end: int


def fields(data: Buffer) -> Iterator[Field]:
    """The fields of a serialised message, in the order they lie there. Raises DecodeError."""
    position, end = 0, len(data)
    for _ in range(_MAX_FIELDS):
        if position == end:
            return
        at, key = position, data[position]
        position += 1
        if key > 0x7F:
            key, position = _read_varint(data, at)
        kind, value = key & 7, position
        if kind == BYTES:
            size, value = _read_varint(data, position)
            position = value + size
        elif kind == 0:
            _, position = _read_varint(data, position)
        else:
            position += _SIZES.get(kind, end)  # groups, which nobody has used for long, end behind the end
        if position > end or not 8 <= key < _KEYS:
            break
        yield Field(key, at, value, position)
    raise DecodeError("not a message, or one of more fields than any of ours")


def last_field(data: Buffer) -> Field | None:
    """Field 15, where it is there once and at the end, as in all messages that are written here."""
    for field in fields(data):
        if field.key == _LAST_KEY:
            return field if field.end == len(data) else None
    return None


def _around_payload(data: Buffer) -> Framed | None:
    view = memoryview(data)
    outer = last_field(view)
    inner = last_field(view[outer.value :]) if outer is not None else None
    if outer is None or inner is None:
        return None
    activation = view[outer.value :]
    return Framed(
        pb.InferRequest.FromString(bytes(view[: outer.at])),
        pb.Activation.FromString(bytes(activation[: inner.at])),
        activation[inner.value :],
    )


def _read_varint(data: Buffer, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends. Raises DecodeError."""
    value, end = 0, min(len(data), position + _MAX_VARINT_BYTES)
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        if position == end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise DecodeError("a number that does not end")
