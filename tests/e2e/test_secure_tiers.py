"""Three tiers that show each other certificates: whole answers, what a bad certificate costs, and what is said."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from device_agent.client import AsyncClient, Prediction
from services import bundle, tls_hints
from services.domain import Tier
from services.errors import OfframpError, PermissionDenied, Unauthenticated
from services.secure_channel import credentials_of
from tests.calls import until
from tests.certificates import GOOD_TOKEN, Party, Signer
from tests.conftest import ROOT
from tests.tiers import ThreeTiers, device, three_tiers, upper

SECONDS = 30.0


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.at(tmp_path / "certs")


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return bundle.load_samples(bundle.load(tiny))[0][..., None]


@asynccontextmanager
async def secure(
    path: Path, signer: Signer, tokens: Path | None = None, transport: str = "exchange"
) -> AsyncIterator[ThreeTiers]:
    """Each tier lets in the one below it, and nobody else."""
    of = {name: signer.party(name) for name in ("device", "edge", "cloud")}
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(
            upper(Tier.CLOUD, path, **of["cloud"].serving(allowed_sans="spiffe://offramp/edge"))
        )
        edge = await stack.enter_async_context(
            upper(
                Tier.EDGE,
                path,
                cloud.address,
                **of["edge"].serving(allowed_sans="spiffe://offramp/device"),
                transport=transport,
                **of["edge"].calling(),
            )
        )
        own = of["device"].serving(allowed_sans="spiffe://offramp/client", token_file=tokens)
        front = await stack.enter_async_context(
            device(path, edge.address, transport=transport, **own, **of["device"].calling())
        )
        yield ThreeTiers(front, edge, cloud)


def shown(party: Party, anonymous: bool = False) -> grpc.ChannelCredentials:
    return credentials_of(party.trust(anonymous).rotation.first)


async def answers(address: str, pixels: np.ndarray, party: Party | None, token: str | None = None) -> list[Prediction]:
    credentials = None if party is None else shown(party)
    async with AsyncClient(address, SECONDS, credentials, token) as client:
        return await client.infer("tiny", pixels)


async def test_encrypted_tiers_answer_as_plaintext_ones_do(tiny: Path, signer: Signer, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as plain:
        expected = await answers(plain.device.address, pixels, None)
    async with secure(tiny, signer) as tiers:
        found = await answers(tiers.device.address, pixels, signer.party("client"))
    assert {each.tier for each in found} == set(Tier)
    assert not any(each.degraded for each in found)
    assert [(a.label, a.exit_index) for a in found] == [(a.label, a.exit_index) for a in expected]


async def test_the_door_wants_both_the_certificate_and_the_token(
    tiny: Path, signer: Signer, pixels: np.ndarray, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(GOOD_TOKEN)
    async with secure(tiny, signer, tokens) as tiers:
        door = tiers.device.address
        client, stranger = signer.party("client"), signer.party("stranger")
        assert await answers(door, pixels, client, GOOD_TOKEN)
        with pytest.raises(Unauthenticated):
            await answers(door, pixels, client)
        with pytest.raises(Unauthenticated):
            await answers(door, pixels, client, GOOD_TOKEN[::-1])
        with pytest.raises(PermissionDenied):
            await answers(door, pixels, stranger, GOOD_TOKEN)


async def test_a_client_cannot_pass_the_device_by(tiny: Path, signer: Signer, pixels: np.ndarray) -> None:
    async with secure(tiny, signer) as tiers:
        for above in (tiers.edge, tiers.cloud):
            with pytest.raises(PermissionDenied):
                await answers(above.address, pixels, signer.party("client"))


@pytest.mark.parametrize(
    ("fault", "hint"),
    [
        ("stranger", "refuses this tier's certificate"),
        ("anonymous", "set next_cert and next_key"),
        ("distrusts", "does not trust its certificate"),
        ("misnamed", "does not trust its certificate: Hostname mismatch"),
        ("plaintext", "set next_ca"),
    ],
)
async def test_an_edge_that_refuses_costs_no_answer_and_is_explained(
    tiny: Path,
    signer: Signer,
    tmp_path: Path,
    pixels: np.ndarray,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    hint: str,
) -> None:
    other, own = Signer.at(tmp_path / "others").party("device"), signer.party("device")
    calling = {
        "stranger": other.calling(next_ca=own.ca),
        "anonymous": {"next_ca": own.ca},
        "distrusts": own.calling(next_ca=other.ca),
        "misnamed": own.calling(next_server_name="cloud-node"),
        "plaintext": {},
    }[fault]
    async with (
        upper(Tier.EDGE, tiny, **signer.party("edge").serving()) as edge,
        device(tiny, edge.address, **calling) as front,
    ):
        found = await answers(front.address, pixels, None)

        async def explained() -> bool:
            return any(hint in said["message"] for said in events(caplog, "tls_hint"))

        await until(explained)
    assert {each.degraded_reason for each in found if each.degraded} == {"upstream_unavailable"}
    assert len(events(caplog, "tls_hint")) == 1


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, str]]:
    """The fields of the log's lines of that name, so far."""
    return [record.fields for record in caplog.records if record.getMessage() == name]  # type: ignore[attr-defined]


async def test_an_edge_without_tls_is_explained(tiny: Path, signer: Signer) -> None:
    async with upper(Tier.EDGE, tiny) as edge:
        found = await asyncio.to_thread(tls_hints.why, edge.address, signer.party("device").trust())
        assert found == "the tier above does not speak TLS; leave next_ca out, or give that tier tls_cert"
        assert await asyncio.to_thread(tls_hints.why, edge.address, None) is None


@pytest.mark.parametrize(
    "target", ["127.0.0.1:1", "dns:///localhost:1", "unix:/nowhere", "ipv4:127.0.0.1:1,127.0.0.1:2"]
)
def test_a_tier_that_is_away_is_not_explained(target: str, signer: Signer) -> None:
    assert tls_hints.why(target, None) is None
    assert tls_hints.why(target, signer.party("device").trust()) is None


async def test_a_certificate_that_expires_while_it_is_used_is_refused_and_explained(
    tiny: Path, signer: Signer, pixels: np.ndarray
) -> None:
    trust = signer.party("device").trust()
    old = signer.expired("device")
    pems = [file.read_bytes() for file in (old.ca, old.key, old.cert)]
    async with (
        upper(Tier.EDGE, tiny, **signer.party("edge").serving()) as edge,
        AsyncClient(edge.address, SECONDS, grpc.ssl_channel_credentials(*pems)) as client,
    ):
        with pytest.raises(OfframpError):
            await client.infer("tiny", pixels)
        said = await asyncio.to_thread(tls_hints.why, edge.address, trust)
    assert said is not None
    assert said.startswith("the tier above refuses this tier's certificate. next_cert: ")
    assert "certificate has expired" in said


async def test_tiers_take_new_certificates_while_they_answer(
    tiny: Path, signer: Signer, pixels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "offramp")
    async with secure(tiny, signer, transport="unary") as tiers:  # a stream stays on the connection it has
        client = signer.party("client")
        assert not any(each.degraded for each in await answers(tiers.device.address, pixels, client))
        for name in ("device", "edge", "cloud"):
            signer.party(name)

        async def all_taken() -> bool:
            found = await answers(tiers.device.address, pixels, client)
            assert not any(each.degraded for each in found)
            taken = sorted(said["setting"] for said in events(caplog, "certificate_taken"))
            return taken == ["next_cert"] * 2 + ["tls_cert"] * 3

        await until(all_taken)


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_tier_that_cannot_be_secure_does_not_start(tiny: Path, signer: Signer) -> None:
    edge, old = signer.party("edge"), signer.expired("old")
    serve = ("--bundle", str(tiny), "--listen", "127.0.0.1:0", "--metrics-listen", "-")
    cases = {
        ("--tls-cert", str(edge.cert)): "tls_cert needs tls_key",
        ("--tls-cert", str(edge.cert), "--tls-key", str(old.key)): "does not belong to",
        ("--tls-cert", str(old.cert), "--tls-key", str(old.key)): "certificate has expired",
        ("--tls-client-ca", str(edge.ca)): "tls_client_ca needs tls_cert",
        ("--token-file", str(edge.key)): "set tls_client_ca too",
    }
    for arguments, said in cases.items():
        done = run("edge_node", *serve, *arguments)
        (line,) = done.stderr.strip().splitlines()[-1:]
        assert done.returncode == 2, done.stderr
        assert said in line
        assert "Traceback" not in done.stderr


def test_the_command_line_shows_certificate_and_token(signer: Signer, tmp_path: Path) -> None:
    client = signer.party("client")
    token = tmp_path / "token"
    token.write_text(GOOD_TOKEN)
    image = tmp_path / "some.png"
    image.write_bytes(b"")
    ask = ("infer", str(image), "--target", "127.0.0.1:1", "--timeout", "2")
    known = ("--ca", str(client.ca), "--cert", str(client.cert))
    cases = {
        (*ask, "--cert", str(client.cert)): "need --ca",
        (*ask, *known): "--cert needs --key",
        ("infer", str(image), "--target", "far.example.org:8001", "--token-file", str(token)): "could read the token",
        (*ask, *known, "--key", str(signer.party("other").key)): "does not belong to --cert",
        ("health", "--addr", "127.0.0.1:1", "--ca", str(image)): "holds no certificate",
    }
    for arguments, said in cases.items():
        done = run("testbed.cli", *arguments)
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
        assert GOOD_TOKEN not in done.stderr + done.stdout
