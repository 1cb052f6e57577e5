"""What the containers promise: answers from every tier, limits, isolation, drain, and life without a tier."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from device_agent.client import Prediction
from services.domain import Tier
from tests.conftest import ROOT
from tests.containers.conftest import BUILD_SECONDS, Stack
from tests.containers.load import ask, until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(BUILD_SECONDS + 300)]

TIERS = ("device-agent", "edge-node", "cloud-node")
LINKS = ("link-device-edge", "link-edge-cloud")

CONNECT = """
import socket, sys
for host in sys.argv[1:]:
    try:
        socket.create_connection((host, 8001), timeout=3).close()
        print("reached")
    except OSError:
        print("no way")
"""


@pytest.fixture(scope="module")
def whole(stack: Stack, images: npt.NDArray[np.uint8]) -> list[Prediction]:
    """The answers while every tier is up."""
    return asyncio.run(ask(stack, images))


@pytest.fixture
def restored(stack: Stack) -> Iterator[None]:
    """Whatever the test stops is running and healthy again when it ends."""
    yield
    stack.up()


def serves(stack: Stack, service: str) -> bool:
    try:
        stack.inside(service, "offramp", "health", "--addr", "127.0.0.1:8001", "--service", "readiness")
    except AssertionError:
        return False
    return True


def rows_of(answers: list[Prediction], tier: Tier) -> list[int]:
    return [row for row, answer in enumerate(answers) if answer.tier is tier]


def test_every_container_is_healthy_within_a_minute(stack: Stack) -> None:
    states = {service: stack.inspect(service)["State"]["Health"]["Status"] for service in TIERS + LINKS}
    assert set(states.values()) == {"healthy"}, states
    assert stack.healthy_after_seconds < 60


def test_the_command_line_on_the_host_gets_an_answer(
    stack: Stack, images: npt.NDArray[np.uint8], whole: list[Prediction], tmp_path: Path
) -> None:
    file = tmp_path / "digit.png"
    Image.fromarray(images[0, ..., 0]).save(file)
    command = [sys.executable, "-m", "testbed.cli", "infer", str(file), "--target", stack.target, "--json"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    (answer,) = json.loads(printed)
    assert (answer["label"], answer["tier"]) == (whole[0].label, whole[0].tier.label)


def test_each_tier_answers_some_of_the_held_out_images(whole: list[Prediction]) -> None:
    assert {answer.tier for answer in whole} == set(Tier)
    assert not any(answer.degraded for answer in whole)


def test_without_the_cloud_its_answers_are_degraded_and_none_is_lost(
    stack: Stack, images: npt.NDArray[np.uint8], whole: list[Prediction], restored: None
) -> None:
    stack.docker("kill", stack.container("cloud-node"))
    answers = asyncio.run(ask(stack, images))
    degraded = [row for row, answer in enumerate(answers) if answer.degraded]
    assert degraded == rows_of(whole, Tier.CLOUD)
    assert all(answers[row].degraded_reason for row in degraded)
    assert not rows_of(answers, Tier.CLOUD)


def test_a_cloud_that_returns_answers_again(
    stack: Stack, images: npt.NDArray[np.uint8], whole: list[Prediction], restored: None
) -> None:
    hard = images[rows_of(whole, Tier.CLOUD)]
    stack.docker("kill", stack.container("cloud-node"))
    assert all(answer.degraded for answer in asyncio.run(ask(stack, hard)))
    stack.compose("start", "cloud-node")
    until(lambda: {answer.tier for answer in asyncio.run(ask(stack, hard))} == {Tier.CLOUD})


def test_the_edge_starts_without_the_cloud(stack: Stack, restored: None) -> None:
    stack.docker("kill", stack.container("cloud-node"))
    stack.docker("restart", stack.container("edge-node"))
    until(lambda: serves(stack, "edge-node"))


def test_a_stopped_edge_drains_and_no_request_is_lost(
    stack: Stack, images: npt.NDArray[np.uint8], restored: None
) -> None:
    edge = stack.container("edge-node")

    async def stop_under_load() -> tuple[list[Prediction], float]:
        asking = asyncio.create_task(ask(stack, images))
        started = time.monotonic()
        await asyncio.to_thread(stack.docker, "stop", "--time", "45", edge)
        return await asking, time.monotonic() - started

    answers, seconds = asyncio.run(stop_under_load())
    assert len(answers) == len(images)
    assert stack.inspect("edge-node")["State"]["ExitCode"] == 0
    assert '"event": "stopped"' in stack.compose("logs", "--tail", "1", "edge-node")
    assert seconds < 15


def test_everything_ends_cleanly_when_it_is_stopped_and_may_be_started_again(
    stack: Stack, images: npt.NDArray[np.uint8], restored: None
) -> None:
    stack.compose("stop", "--timeout", "45")
    ended = {service: stack.inspect(service)["State"]["ExitCode"] for service in (*TIERS, *LINKS, "prometheus")}
    assert set(ended.values()) == {0}, ended
    stack.up()
    assert {answer.tier for answer in asyncio.run(ask(stack, images))} == set(Tier)


def test_the_device_reaches_its_link_and_nothing_beyond(stack: Stack) -> None:
    beyond = ["cloud-node", "edge-node", "link-edge-cloud", address_of(stack, "cloud-node")]
    printed = stack.inside("device-agent", "python", "-c", CONNECT, "link-device-edge", *beyond)
    assert printed.split("\n")[:-1] == ["reached"] + ["no way"] * len(beyond)


def address_of(stack: Stack, service: str) -> str:
    (network,) = stack.inspect(service)["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


@pytest.mark.parametrize(
    ("service", "cores", "mebibytes", "threads"),
    [("device-agent", 0.5, 256, 1), ("edge-node", 1, 512, 1), ("cloud-node", 2, 1024, 2)],
)
def test_each_tier_has_its_limits_and_its_threads(
    stack: Stack, service: str, cores: float, mebibytes: int, threads: int
) -> None:
    found = stack.inspect(service)
    assert found["HostConfig"]["NanoCpus"] == cores * 1e9
    assert found["HostConfig"]["Memory"] == mebibytes << 20
    assert found["HostConfig"]["PidsLimit"] > 0
    assert f"OFFRAMP_THREADS={threads}" in found["Config"]["Env"]
    assert not found["State"]["OOMKilled"]


@pytest.mark.parametrize("service", TIERS + LINKS)
def test_no_container_has_more_rights_than_it_needs(stack: Stack, service: str) -> None:
    host: dict[str, Any] = stack.inspect(service)["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert stack.inside(service, "id", "-u").strip() == "1000"
    assert {b["HostIp"] for bindings in host["PortBindings"].values() for b in bindings} <= {"127.0.0.1"}
    with pytest.raises(AssertionError, match="Read-only file system"):
        stack.inside(service, "touch", "/app/a-file")


def test_the_image_is_small_and_has_neither_torch_nor_a_compiler(stack: Stack) -> None:
    (image,) = json.loads(stack.docker("image", "inspect", stack.image))
    assert image["Size"] < 600e6
    look = "import importlib.util, shutil; print(importlib.util.find_spec('torch'), shutil.which('gcc'))"
    assert stack.inside("device-agent", "python", "-c", look).split() == ["None", "None"]


def test_a_device_without_fixed_splits_plans_from_what_it_measured(
    stack: Stack, images: npt.NDArray[np.uint8], restored: None
) -> None:
    stack.compose("up", "--detach", "--wait", "--wait-timeout", "60", "--no-deps", "device-agent", SPLITS="")
    answers = asyncio.run(ask(stack, images[:20]))
    planned = [line for line in stack.compose("logs", "device-agent").splitlines() if '"event": "plan"' in line]
    assert planned
    assert {answer.plan for answer in answers} <= {json.loads(line[line.index("{") :])["plan"] for line in planned}


def test_the_links_can_be_asked_from_the_host(stack: Stack, whole: list[Prediction]) -> None:
    shapes = {}
    for name in ("DEVICE_EDGE", "EDGE_CLOUD"):
        with urlopen(f"http://127.0.0.1:{stack.port(f'{name}_CONTROL_PORT')}/link", timeout=10) as reply:
            shapes[name] = json.load(reply)
    assert all(shape["stats"]["up_bytes"] > 0 for shape in shapes.values())
    rates = {name: (shape["up"]["rate"], shape["up"]["delay"]) for name, shape in shapes.items()}
    assert rates == {"DEVICE_EDGE": ("20mbit", "5ms"), "EDGE_CLOUD": ("50mbit", "20ms")}
