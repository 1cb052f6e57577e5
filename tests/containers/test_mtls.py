"""The encrypted overlay: who is served, who is refused, and that new certificates need no restart."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest

from device_agent.client import AsyncClient, Prediction
from services.domain import Tier
from services.errors import OfframpError, PermissionDenied, Unauthenticated
from services.secure_channel import credentials_of
from services.tokens import read_one
from testbed.commands import certs as command
from tests.certificates import Party
from tests.containers.conftest import BUILD_SECONDS, Stack, started
from tests.containers.load import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(BUILD_SECONDS + 300)]

TIERS = ("device-agent", "edge-node", "cloud-node")
SECONDS = 20.0
OWNER = (1000, 1000) if os.getuid() == 0 else (os.getuid(), os.getgid())
"""Who the containers run as, so that they can read keys that only their owner can."""


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mtls") / "certs"
    command.certs(folder, names="device,edge,cloud,client,stranger")
    hand_over(folder)
    return folder


def hand_over(folder: Path) -> None:
    for each in (folder, *folder.rglob("*")):
        if os.getuid() == 0:
            os.chown(each, *OWNER)


@pytest.fixture(scope="module")
def stack(certs: Path) -> Iterator[Stack]:
    values = {"CERTS": str(certs), "CERTS_USER": ":".join(map(str, OWNER))}
    with started(("docker-compose.yml", "docker-compose.mtls.yml"), values) as running:
        yield running


def shown(certs: Path, name: str) -> grpc.ChannelCredentials:
    return credentials_of(Party(certs / name).trust().rotation.first)


def ask(
    stack: Stack, images: npt.NDArray[np.uint8], credentials: grpc.ChannelCredentials | None, token: str | None = None
) -> list[Prediction]:
    async def asked() -> list[Prediction]:
        async with AsyncClient(stack.target, SECONDS, credentials, token) as client:
            return await client.infer("digits", images)

    return asyncio.run(asked())


def test_every_tier_is_healthy_to_a_probe_without_a_certificate(stack: Stack) -> None:
    states = {service: stack.inspect(service)["State"]["Health"]["Status"] for service in TIERS}
    assert set(states.values()) == {"healthy"}


def test_the_right_certificate_is_served_by_all_tiers(stack: Stack, certs: Path, images: npt.NDArray[np.uint8]) -> None:
    answers = ask(stack, images[:200], shown(certs, "client"))
    assert {answer.tier for answer in answers} == set(Tier)
    assert not any(answer.degraded for answer in answers)


def test_none_or_a_wrong_certificate_is_refused(
    stack: Stack, certs: Path, images: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    command.certs(tmp_path / "others", names="client")
    ca, others = Party(certs / "client").ca.read_bytes(), Party(tmp_path / "others" / "client")
    of_others = grpc.ssl_channel_credentials(ca, others.key.read_bytes(), others.cert.read_bytes())
    for wrong in (grpc.ssl_channel_credentials(ca), of_others, shown(tmp_path / "others", "client")):
        with pytest.raises(OfframpError) as refused:
            ask(stack, images[:1], wrong)
        assert refused.value.reason == "UPSTREAM_UNAVAILABLE"
    for name in ("stranger", "edge"):
        with pytest.raises(PermissionDenied):
            ask(stack, images[:1], shown(certs, name))


def test_plaintext_is_refused_at_the_door_and_between_tiers(stack: Stack, images: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(OfframpError):
        ask(stack, images[:1], None)
    for service, above in (("device-agent", "link-device-edge"), ("edge-node", "link-edge-cloud")):
        with pytest.raises(AssertionError, match="ended with 1"):
            stack.inside(service, "offramp", "health", "--addr", f"{above}:8001", "--timeout", "5")


def test_only_its_own_key_is_in_a_container(stack: Stack) -> None:
    for service in TIERS:
        found = set(stack.inside(service, "ls", "/certs").split())
        assert found - {"tokens"} == {"ca.crt", "tls.crt", "tls.key"}
        with pytest.raises(AssertionError, match="Read-only file system"):
            stack.inside(service, "touch", "/certs/a-file")


def test_new_certificates_are_served_without_a_restart(
    stack: Stack, certs: Path, images: npt.NDArray[np.uint8]
) -> None:
    began = {service: stack.inspect(service)["State"]["StartedAt"] for service in TIERS}
    command.certs(certs, names="device,edge,cloud,client,stranger", renew=True)
    hand_over(certs)
    new = Party(certs / "device").cert.read_text().strip()
    client = shown(certs, "client")

    def served() -> bool:
        assert not any(answer.degraded for answer in ask(stack, images[:20], client))
        return presented(stack.port("PUBLIC_PORT"), certs) == new

    until(served)
    assert {service: stack.inspect(service)["State"]["StartedAt"] for service in TIERS} == began


def presented(port: int, certs: Path) -> str:
    """The certificate that the door shows, PEM."""
    return ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(certs / "ca.crt"), timeout=10).strip()


def test_a_token_is_required_where_it_is_set(stack: Stack, certs: Path, images: npt.NDArray[np.uint8]) -> None:
    up = ("up", "--detach", "--wait", "--wait-timeout", "60", "--no-deps", "device-agent")
    stack.compose(*up, TOKEN_FILE="/certs/tokens")
    client = shown(certs, "client")
    assert ask(stack, images[:1], client, read_one(certs / "client" / "tokens"))
    for token in (None, "a-token-that-nobody-was-given"):
        with pytest.raises(Unauthenticated):
            ask(stack, images[:1], client, token)
    assert read_one(certs / "client" / "tokens") not in stack.compose("logs", "device-agent")
