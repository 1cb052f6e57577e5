"""Channels whose certificates are replaced while they are in use. Nobody is called."""

from __future__ import annotations

from pathlib import Path

from services.secure_channel import RenewingChannel
from tests.certificates import Signer
from tests.fakes import FakeClock


async def test_new_certificates_reach_every_channel_that_shares_them_and_those_opened_later(tmp_path: Path) -> None:
    signer, clock = Signer.at(tmp_path), FakeClock(100.0)
    trust = signer.party("device").trust()
    before = trust.rotation.current
    channels = [RenewingChannel(f"127.0.0.1:{port}", [], trust, clock) for port in (1, 2)]
    old = [channel.current() for channel in channels]
    renewed = signer.party("device").cert.read_bytes()
    clock.now += 2
    new = [channel.current() for channel in channels]
    assert [each is other for each, other in zip(old, new, strict=True)] == [False, False]
    channels.append(RenewingChannel("127.0.0.1:3", [], trust, clock))
    assert {channel._pems.certificate for channel in channels} == {renewed}
    assert before.certificate != renewed
    clock.now += 2
    assert [channel.current() for channel in channels[:2]] == new
    for channel in channels:
        await channel.close()
