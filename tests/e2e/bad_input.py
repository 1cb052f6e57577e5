"""What callers get wrong, each with the status and the reason it earns. A table for tests, and for who reads it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.channels import channel_options
from tests.calls import PATIENCE, reason
from tests.processes import Child, child

BAD = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
CORRUPT = (grpc.StatusCode.INVALID_ARGUMENT, "CORRUPT_PAYLOAD")
MISSING = (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
BIG = (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE")
CUT_OFF = (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
"""By gRPC itself, before any of us saw it."""
OTHER_MODEL = (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH")
LATE = (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")

LIMIT = 8 << 20
"""Bytes of a message, at the tiers that these are sent to."""
MOST_BYTES = 10 * LIMIT
"""What the tier's memory may ever grow by: a message as it came, joined, and parsed, kept by some of gRPC's threads."""
SECRETS = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|/tmp|/home|/usr|<class|0x[0-9a-f]{6}|\w(Error|Exception)\b"
)


@dataclass(frozen=True, slots=True)
class Wrong:
    """One bad input: what is wrong, in a sentence; the bytes of the message; what the caller must be told."""

    says: str
    body: Callable[[], bytes]
    told: tuple[grpc.StatusCode, str] = BAD
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    gzip: bool = False

    @property
    def id(self) -> str:
        return self.says.replace(" ", "_")


def varint(number: int) -> bytes:
    """As protobuf writes it."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, of text, of packed numbers, or a message: they look the same."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def serialised(build: Callable[[], Any]) -> Callable[[], bytes]:
    """The bytes of the message that `build` makes, when they are wanted."""
    return lambda: build().SerializeToString()


def padded(zeros: int) -> Callable[[], bytes]:
    """`zeros` bytes in a field that nobody knows."""
    return lambda: field(2047, bytes(zeros))


@dataclass(frozen=True, slots=True)
class Asked:
    """A tier in a process of its own, a good request, and what of its answer is the same each time."""

    tier: Child
    method: Callable[..., bytes]
    good: bytes
    essence: Callable[[bytes], object]

    def answer(self) -> object:
        return self.essence(self.method(self.good, timeout=PATIENCE))

    def refuses(self, wrong: Wrong) -> None:
        """Asserts status, reason, and that what is told tells nothing of the machine."""
        gzip = grpc.Compression.Gzip if wrong.gzip else None
        with pytest.raises(grpc.RpcError) as refused:
            self.method(wrong.body(), timeout=PATIENCE, metadata=wrong.metadata, compression=gzip)
        error: Any = refused.value
        assert (error.code(), reason(error)) == wrong.told, error.details()
        assert error.details()
        assert len(error.details()) <= 500
        assert not SECRETS.search(error.details())


def alone(channel: grpc.Channel, path: str) -> Callable[..., bytes]:
    """A call for each message."""
    call: Callable[..., bytes] = channel.unary_unary(f"/{path}")
    return call


@contextmanager
def asking_a(
    module: str,
    bundle: Path,
    path: str,
    good: bytes,
    essence: Callable[[bytes], object],
    way: Callable[[grpc.Channel, str], Callable[..., bytes]] = alone,
) -> Iterator[tuple[Asked, object, int]]:
    """A tier to ask, its first answer, and the bytes of memory it holds after that."""
    options = channel_options(64 * LIMIT)
    with (
        child(module, bundle, "--max-batch", "16", "--max-message-bytes", str(LIMIT)) as tier,
        grpc.insecure_channel(tier.address, options) as channel,
    ):
        asked = Asked(tier, way(channel, path), good, essence)
        first = asked.answer()
        yield asked, first, tier.held_bytes()


def check(asked: tuple[Asked, object, int], wrong: Wrong) -> None:
    """`wrong` is refused as it must be, within bounded memory, and the next good request is answered as the first."""
    tier, first, held = asked
    tier.tier.forget_peak()
    tier.refuses(wrong)
    assert tier.tier.peak_bytes() - held <= MOST_BYTES
    assert tier.answer() == first
