"""What a message is made of, counted on its bytes before protobuf makes objects of them.

Two bytes of a message can be one object of a hundred, and a byte one number of eight: what passes the limit on a
message's size may still take forty times its memory and, parsed where requests are served, seconds of everyone's
time. Payloads are skipped over, so that looking through a large message takes microseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from services.errors import InvalidInput, OfframpError, TooLarge

M = TypeVar("M", bound="Readable")

MAX_FIELDS = 1 << 12
"""Of a request, those of messages within it included. One of ours has 40."""
MAX_REPLY_FIELDS = 1 << 16
"""Of a reply: a description holds the times of every segment of every tier."""
MAX_NUMBERS = 1 << 20
"""Bytes of whole numbers packed end to end. Tensors have raw contents for more."""
SMALL = 1 << 15
"""Bytes. Whatever is made of so few takes a megabyte and a millisecond at most."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MALFORMED = "the message is not valid protobuf of this method's request"


class Readable(Protocol):
    """A message, or what is read as one."""

    DESCRIPTOR: Any

    @classmethod
    def FromString(cls, data: bytes) -> Self: ...


def parse(kind: type[M], data: bytes, most: int = MAX_FIELDS, small: int = SMALL) -> M:
    """`data` as a message; one of up to `small` bytes is not looked through first.

    Raises InvalidInput where it is none, TooLarge where it is more than `most` fields.
    """
    if len(data) > small:
        _Screen(data, most).look(0, len(data), _table(kind.DESCRIPTOR))
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidInput(_MALFORMED) from None


def request(kind: type[M]) -> Callable[[bytes], M | OfframpError]:
    """A deserializer for a server. gRPC would answer what it raises with UNKNOWN and its text, so it raises nothing."""

    def deserialize(data: bytes) -> M | OfframpError:
        try:
            return parse(kind, data)
        except OfframpError as error:
            return error.with_traceback(None)  # whose frames would keep `data` until the garbage collector comes by

    return deserialize


def reply(kind: type[M]) -> Callable[[bytes], M | None]:
    """A deserializer for a client: None for what is no reply, as gRPC has it, without a traceback in the log."""

    def deserialize(data: bytes) -> M | None:
        try:
            return parse(kind, data, MAX_REPLY_FIELDS)
        except OfframpError:
            return None

    return deserialize


_Table = dict[int, "_Table | None"]
"""By field number: the table of the message in it, None for numbers that can come packed; nothing for the rest."""

_tables: dict[Descriptor, _Table] = {}


def _table(kind: Descriptor) -> _Table:
    """Built once for each message there is; ours do not nest in themselves."""
    if kind not in _tables:
        _tables[kind] = {
            number: _table(field.message_type) if field.message_type else None
            for number, field in kind.fields_by_number.items()
            if field.message_type or _widens(field)
        }
    return _tables[kind]


def _widens(field: Any) -> bool:
    """Whether a number takes more memory than its bytes in a message, as one of varying length does."""
    fixed = FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE
    texts = FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE
    return field.cpp_type not in (*fixed, *texts)


@dataclass(slots=True)
class _Screen:
    """One look through one message: what may still come."""

    data: bytes
    fields: int
    numbers: int = MAX_NUMBERS

    def look(self, at: int, end: int, table: _Table) -> None:
        """Counts what is in data[at:end]. Raises TooLarge for too much, InvalidInput where nothing could be read."""
        data = self.data
        while at < end:
            tag, at = (data[at], at + 1) if data[at] < 0x80 else self._varint(at)
            self.fields -= 1
            if self.fields < 0:
                raise TooLarge("the message is made of too many fields; send numbers packed, or as raw contents")
            wire_type = tag & 7
            if wire_type == _VARINT:
                _, at = self._varint(at)
            elif wire_type == _BYTES:
                size, at = self._varint(at)
                if at + size > end:
                    raise InvalidInput(_MALFORMED)
                if tag >> 3 in table:
                    self._inside(table[tag >> 3], at, size)
                at += size
            elif wire_type in (_FIXED32, _FIXED64):
                at += 4 if wire_type == _FIXED32 else 8
            else:
                raise InvalidInput(_MALFORMED)  # groups, which nobody has used for long
        if at != end:
            raise InvalidInput(_MALFORMED)

    def _inside(self, inner: _Table | None, at: int, size: int) -> None:
        if inner is not None:
            self.look(at, at + size, inner)
            return
        self.numbers -= size
        if self.numbers < 0:
            raise TooLarge(f"the message holds more than {MAX_NUMBERS:,} bytes of packed numbers; send raw contents")

    def _varint(self, at: int) -> tuple[int, int]:
        """The number that starts at `at`, and where it ends. At most ten bytes."""
        data, value = self.data, 0
        for shift in range(0, 70, 7):
            if at >= len(data):
                break
            byte = data[at]
            value |= (byte & 0x7F) << shift
            at += 1
            if byte < 0x80:
                return value, at
        raise InvalidInput(_MALFORMED)
