"""Who comes in and who does not: servers with certificates, tokens and lists of names, and callers of every kind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2

from services import security
from services.errors import OfframpError, PermissionDenied, SettingsError, Unauthenticated
from services.pb.offramp.v1 import tier_pb2 as pb
from services.settings import TierSettings
from tests.calls import DOOR, TIER, until
from tests.certificates import GOOD_TOKEN, Party, Signer
from tests.secured import SECONDS, Ear, calling, echo, health, knock, probe, reflect, serving


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.at(tmp_path / "certs")


@pytest.fixture
def edge(signer: Signer) -> Party:
    return signer.party("edge", "edge-node")


@pytest.fixture
def device(signer: Signer) -> Party:
    return signer.party("device", "device-agent")


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# clients\n{GOOD_TOKEN}\nanother-good-token-of-this-test\n")
    return file


async def test_the_right_certificate_is_served(edge: Party, device: Party) -> None:
    async with serving(**edge.serving()) as server, calling(server, device.trust()) as call:
        await probe(call)
        assert await knock(call)
        assert await echo(call) == b"hello"


async def test_no_certificate_is_refused(edge: Party, device: Party) -> None:
    async with serving(**edge.serving()) as server, calling(server, device.trust(anonymous=True)) as call:
        with pytest.raises(OfframpError) as refused:
            await probe(call)
    assert refused.value.reason == "UPSTREAM_UNAVAILABLE"


async def test_a_certificate_of_another_authority_is_refused(edge: Party, device: Party, tmp_path: Path) -> None:
    stranger = Signer.at(tmp_path / "others").party("device")
    mixed = Party(stranger.folder)
    mixed.ca.write_bytes(device.ca.read_bytes())
    async with serving(**edge.serving()) as server, calling(server, mixed.trust()) as call:
        with pytest.raises(OfframpError):
            await probe(call)


async def test_a_server_of_another_authority_is_not_trusted(device: Party, tmp_path: Path) -> None:
    stranger = Signer.at(tmp_path / "others").party("edge")
    async with serving(tls_cert=stranger.cert, tls_key=stranger.key) as server, calling(server, device.trust()) as call:
        with pytest.raises(OfframpError):
            await probe(call)


async def test_plaintext_is_refused(edge: Party) -> None:
    async with serving(**edge.serving()) as server, calling(server) as call:
        with pytest.raises(OfframpError):
            await probe(call)
        with pytest.raises(OfframpError):
            await health(call)


async def test_a_server_must_be_called_what_its_certificate_says(edge: Party, device: Party) -> None:
    async with serving(**edge.serving()) as server:
        async with calling(server, device.trust(server_name="edge-node")) as call:
            await probe(call)
        async with calling(server, device.trust(server_name="cloud-node")) as call:
            with pytest.raises(OfframpError):
                await probe(call)


@pytest.mark.parametrize("name", ["device-agent", "spiffe://offramp/device"])
async def test_whoever_is_on_the_list_may_call(edge: Party, device: Party, name: str) -> None:
    async with (
        serving(**edge.serving(allowed_sans=f"somebody, {name}")) as server,
        calling(server, device.trust()) as call,
    ):
        await probe(call)
        assert await echo(call) == b"hello"


async def test_whoever_is_not_on_the_list_is_denied_everything_but_health(edge: Party, device: Party) -> None:
    ear = Ear()
    async with (
        serving(ear, **edge.serving(allowed_sans="spiffe://offramp/cloud,devic")) as server,
        calling(server, device.trust()) as call,
    ):
        for method in (probe, knock, echo, reflect):
            with pytest.raises(PermissionDenied, match="spiffe://offramp/device may not call"):
                await method(call)
        assert await health(call) == health_pb2.HealthCheckResponse.SERVING
    assert {refused.reason for refused in ear.heard} == {"PERMISSION_DENIED"}


async def test_a_good_token_opens_the_door(edge: Party, device: Party, tokens: Path) -> None:
    async with serving(**edge.serving(token_file=tokens)) as server, calling(server, device.trust()) as call:
        assert await knock(call, GOOD_TOKEN)
        assert await knock(call, "another-good-token-of-this-test")
        assert DOOR.encode() in await reflect(call, GOOD_TOKEN)


@pytest.mark.parametrize("token", [None, "", "a-token-that-nobody-ever-knew", GOOD_TOKEN[:-1], "Bearer " + GOOD_TOKEN])
async def test_no_token_or_a_wrong_one_does_not(edge: Party, device: Party, tokens: Path, token: str | None) -> None:
    ear = Ear()
    async with serving(ear, **edge.serving(token_file=tokens)) as server, calling(server, device.trust()) as call:
        for method in (knock, reflect):
            with pytest.raises(Unauthenticated) as refused:
                await method(call, token)
            assert GOOD_TOKEN not in str(refused.value)
    assert {refused.reason for refused in ear.heard} == {"UNAUTHENTICATED"}
    assert not any(GOOD_TOKEN[:-1] in refused.message for refused in ear.heard)


async def test_tiers_and_probes_need_no_token(edge: Party, device: Party, tokens: Path) -> None:
    async with serving(**edge.serving(token_file=tokens)) as server, calling(server, device.trust()) as call:
        await probe(call)
        assert await echo(call) == b"hello"
        assert await health(call) == health_pb2.HealthCheckResponse.SERVING


async def test_a_token_can_be_added_and_taken_back_while_running(edge: Party, device: Party, tokens: Path) -> None:
    async with serving(**edge.serving(token_file=tokens)) as server, calling(server, device.trust()) as call:
        tokens.write_text("the-only-token-that-is-good-now\n")
        assert await knock(call, "the-only-token-that-is-good-now")
        with pytest.raises(Unauthenticated):
            await knock(call, GOOD_TOKEN)


async def test_health_alone_is_answered_without_a_certificate_where_that_is_set(edge: Party) -> None:
    async with serving(**edge.serving(health_listen="127.0.0.1:0")) as server:
        assert server.health_port is not None
        async with calling(server.health_port) as call:
            assert await health(call) == health_pb2.HealthCheckResponse.SERVING
            for method in (probe, knock):
                with pytest.raises(OfframpError) as refused:
                    await method(call)
                assert refused.value.reason == "UNIMPLEMENTED"


async def test_a_new_certificate_is_served_without_a_restart(signer: Signer, edge: Party, device: Party) -> None:
    as_before, as_after = device.trust(server_name="edge-node"), device.trust(server_name="edge-renamed")
    async with serving(**edge.serving()) as server, calling(server, as_before) as before:
        await probe(before)
        signer.party("edge", "edge-renamed")
        async with calling(server, as_after) as after:
            await probe(after)
        await probe(before)


async def test_a_new_certificate_that_cannot_be_used_leaves_the_old_one(
    signer: Signer, edge: Party, device: Party
) -> None:
    async with serving(**edge.serving()) as server:
        signer.expired("edge")
        async with calling(server, device.trust()) as call:
            await probe(call)
        edge.key.write_text("not a key")
        async with calling(server, device.trust()) as call:
            await probe(call)


async def test_a_new_authority_of_callers_holds_from_the_next_handshake(edge: Party, tmp_path: Path) -> None:
    newcomer = Signer.at(tmp_path / "others").party("device")
    async with serving(**edge.serving()) as server:
        trusting = Party(newcomer.folder)
        both = edge.ca.read_bytes() + newcomer.ca.read_bytes()
        trusting.ca.write_bytes(both)
        async with calling(server, trusting.trust()) as call:
            with pytest.raises(OfframpError):
                await probe(call)
        edge.ca.write_bytes(both)
        async with calling(server, trusting.trust()) as call:
            await probe(call)


async def test_a_caller_shows_its_new_certificate_on_the_channel_it_has(
    signer: Signer, edge: Party, device: Party
) -> None:
    only_renamed = edge.serving(allowed_sans="device-renamed")
    async with serving(**only_renamed) as server, calling(server, device.trust()) as call:
        with pytest.raises(PermissionDenied):
            await probe(call)
        signer.party("device", "device-renamed")

        async def served() -> bool:
            try:
                await probe(call)
            except PermissionDenied:
                return False
            return True

        await until(served)


async def test_calls_under_way_outlive_the_certificate_they_began_with(
    signer: Signer, edge: Party, device: Party
) -> None:
    async with serving(**edge.serving()) as server, calling(server, device.trust()) as call:
        stream = call.stream_stream(f"/{TIER}/Echo", pb.ProbeRequest.SerializeToString, pb.ProbeReply.FromString)()
        await stream.write(pb.ProbeRequest(padding=b"before"))
        assert (await stream.read()).padding == b"before"
        first = call.current()  # type: ignore[attr-defined]
        signer.party("device", "device-agent")

        async def renewed() -> bool:
            return call.current() is not first  # type: ignore[attr-defined]

        await until(renewed)
        await probe(call)
        await stream.write(pb.ProbeRequest(padding=b"after"))
        assert (await stream.read()).padding == b"after"
        await stream.done_writing()
        assert await asyncio.wait_for(stream.read(), SECONDS) is grpc.aio.EOF


@pytest.mark.parametrize("side", ["serving", "calling"])
async def test_an_expired_certificate_ends_the_start(signer: Signer, side: str) -> None:
    party = signer.expired("edge")
    given = TierSettings(next="127.0.0.1:1", **getattr(party, side)())
    with pytest.raises(SettingsError, match="certificate has expired"):
        security.of(given)


async def test_tokens_do_not_leave_the_service_between_tiers_open(edge: Party, tokens: Path) -> None:
    with pytest.raises(SettingsError, match="set tls_client_ca too"):
        async with serving(token_file=tokens, tls_cert=edge.cert, tls_key=edge.key):
            pass
