"""What an uplink of the bench writes down of what is put on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.errors import UpstreamUnavailable
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.uplink import Uplink
from testbed.bench.booked import BookedUplink


@pytest.fixture
async def uplink(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[BookedUplink]:
    """One over which every call stays away for a moment, and then fails."""

    async def fails(*_: object) -> None:
        await asyncio.sleep(0)
        raise UpstreamUnavailable("nobody there")

    monkeypatch.setattr(Uplink, "infer", fails)
    monkeypatch.setattr(Uplink, "probe", fails)
    booked = BookedUplink("127.0.0.1:1", 1 << 20)
    yield booked
    await booked.close()


def message(nbytes: int) -> Framed:
    return Framed(pb.InferRequest(), pb.Activation(), bytes(nbytes))


async def test_calls_in_vain_and_probes_are_bytes_that_were_sent(uplink: BookedUplink) -> None:
    with pytest.raises(UpstreamUnavailable):
        await uplink.infer(message(1000), 1.0)
    with pytest.raises(UpstreamUnavailable):
        await uplink.probe(24, 1.0)
    assert uplink.sent_bytes == 1024
