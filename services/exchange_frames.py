"""The messages of an exchange as bytes: many requests, or many outcomes, joined into one without a copy of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from services import framing, screening
from services.errors import InvalidInput, TooLarge
from services.framing import BYTES, Buffer, Framed, varint
from services.pb.offramp.v1 import tier_pb2 as pb

MAX_CALLS = 4096
"""In one message."""
_MAX_CANCELLED_BYTES = 10 * MAX_CALLS
_MAX_FIELDS = 256
"""In one call; one of ours has 40."""
_KEPT_BYTES = 1 << 19
"""A larger message does not stay in memory for the sake of one of its calls that has less than half of it."""
_FREE_BYTES = 1 << 20
"""Of calls that are small, in one message: what they can take is little yet."""
_CALLS, _CANCELLED = 1 << 3 | BYTES, 2 << 3
_CALL, _NUMBER, _REQUEST = bytes([_CALLS]), b"\x08", bytes([15 << 3 | BYTES])
_OUTCOME, _REPLY, _STATUS = b"\x0a", b"\x12", b"\x1a"
_LEAVING = pb.ExchangeReply(leaving=True).SerializeToString()
_MALFORMED = "the message is not valid protobuf of an ExchangeRequest"


class Called(NamedTuple):
    """One call: its number, its request, and what all of it takes as it came, whatever the fields it is in."""

    number: int
    framed: Framed
    nbytes: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What one message of a caller says: requests by number, and the numbers of those nobody waits for any more."""

    calls: tuple[Called, ...]
    cancelled: tuple[int, ...]


def request(calls: Iterable[tuple[int, Framed]], cancelled: Sequence[int] = ()) -> bytes:
    """An ExchangeRequest."""
    joined: list[Buffer] = []
    for number, framed in calls:
        body = framing.parts(framed)
        size = sum(map(len, body))
        head = _NUMBER + varint(number) + _REQUEST + varint(size)
        joined += (_CALL, varint(len(head) + size), head, *body)
    if cancelled:
        joined.append(pb.ExchangeRequest(cancelled=cancelled).SerializeToString())
    return b"".join(joined)


def outcome(number: int, reply: bytes | None, status: bytes = b"") -> bytes:
    """An ExchangeOutcome within an ExchangeReply: a serialised InferReply or, where it is None, a serialised Status."""
    kind, body = (_STATUS, status) if reply is None else (_REPLY, reply)
    head = _NUMBER + varint(number) + kind + varint(len(body))
    return b"".join((_OUTCOME, varint(len(head) + len(body)), head, body))


def reply(outcomes: Iterable[bytes], leaving: bool = False) -> bytes:
    """An ExchangeReply."""
    return b"".join((*outcomes, _LEAVING) if leaving else outcomes)


def read_request(data: bytes) -> Asked:
    """Reads an ExchangeRequest, whoever wrote it. Raises InvalidInput where it is none, TooLarge beyond the limits."""
    view, calls, cancelled, looked_at = memoryview(data), [], b"", 0
    try:
        for field in framing.fields(view):
            if field.key == _CALLS:
                nbytes = field.end - field.value
                looked_at += nbytes
                number, framed = _read_call(view[field.value : field.end], looked_at > _FREE_BYTES, len(data))
                calls.append(Called(number, framed, nbytes))
            elif field.key & ~7 == _CANCELLED:
                cancelled += view[field.at : min(field.end, field.at + _MAX_CANCELLED_BYTES + 1)]
            if len(calls) > MAX_CALLS or len(cancelled) > _MAX_CANCELLED_BYTES:
                raise TooLarge(f"the message has more than {MAX_CALLS} calls, or cancels as many")
        return Asked(tuple(calls), tuple(pb.ExchangeRequest.FromString(cancelled).cancelled) if cancelled else ())
    except DecodeError:
        raise InvalidInput(_MALFORMED) from None


def _read_call(view: Any, suspicious: bool, around: int) -> tuple[int, Framed]:
    """suspicious: there is so much besides that even a small call is looked through before it is read.

    around: bytes of the message that it came in.
    """
    small = 0 if suspicious else screening.SMALL
    found = framing.last_field(view) if len(view) > framing.WORTH_BYTES else None
    if found is None:
        whole = screening.parse(pb.ExchangeCall, bytes(view), _MAX_FIELDS, small)
        return whole.number, Framed.of(whole.request)
    number = pb.ExchangeCall.FromString(bytes(view[: found.at])).number
    framed = screening.parse(Framed, view[found.value :], _MAX_FIELDS, small)
    if around > _KEPT_BYTES and 2 * len(framed.payload) < around:
        framed = replace(framed, payload=bytes(framed.payload))
    return number, framed
