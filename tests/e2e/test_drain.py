"""Ending real processes: nobody's request is lost, and the exit code says how it went."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from device_agent.client import AsyncClient
from services import bundle
from services.domain import Tier
from services.errors import Draining, Unavailable
from services.open_inference import messages
from tests.calls import DOOR, HEALTH, asking, calling, until
from tests.tiers import device

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0


class Node:
    """A tier as a process, ready to serve."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.address = ""

    async def ready(self) -> None:
        """Reads the log up to the line that says where."""
        assert self.process.stderr is not None
        while not self.address:
            line = await asyncio.wait_for(self.process.stderr.readline(), PATIENCE)
            assert line, "the process ended before it was ready"
            event = json.loads(line)
            self.address = event["address"] if event["event"] == "ready" else ""

    async def ended(self) -> tuple[int, list[str]]:
        """The exit code, and the events of the log from here on."""
        _, log = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        assert self.process.returncode is not None
        return self.process.returncode, [json.loads(line)["event"] for line in log.splitlines()]


@asynccontextmanager
async def node(module: str, path: Path, *arguments: str) -> AsyncIterator[Node]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    environment |= {"OFFRAMP_CONSOLE_LISTEN": "-", "OFFRAMP_METRICS_LISTEN": "-"}  # a port is one, tests are many
    command = [sys.executable, "-m", module, "--bundle", str(path), "--listen", "127.0.0.1:0", *arguments]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE)
    try:
        running = Node(process)
        await running.ready()
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return np.repeat(bundle.load_samples(bundle.load(tiny))[0][..., None], 6, axis=0)


class Load:
    """Eight callers, each asking again as soon as it is answered, until told to stop or refused."""

    def __init__(self, client: AsyncClient, pixels: np.ndarray):
        self.answered, self.degraded, self.refused = 0, set[str](), list[Exception]()
        self._stop = asyncio.Event()
        self._callers = [asyncio.create_task(self._ask(client, pixels)) for _ in range(8)]

    async def _ask(self, client: AsyncClient, pixels: np.ndarray) -> None:
        while not self._stop.is_set():
            try:
                answers = await client.infer("tiny", pixels, timeout_seconds=PATIENCE)
            except Exception as error:
                self.refused.append(error)
                return
            assert len(answers) == len(pixels)
            self.degraded |= {answer.degraded_reason for answer in answers if answer.degraded}
            self.answered += 1

    async def under_way(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.answered < 20:
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(asyncio.gather(*self._callers), PATIENCE)

    async def until_refused(self) -> None:
        await asyncio.wait_for(asyncio.gather(*self._callers), PATIENCE)


async def test_a_device_agent_answers_all_it_took_and_exits_with_0(tiny: Path, pixels: np.ndarray) -> None:
    async with (
        node("device_agent", tiny, "--drain-delay-seconds", "0.3", "--log-level", "info") as agent,
        AsyncClient(agent.address) as client,
    ):
        load = Load(client, pixels)
        await load.under_way()
        agent.process.send_signal(signal.SIGTERM)
        await load.stop()
        code, events = await agent.ended()
    assert not load.refused
    assert code == 0
    assert events[-1] == "stopped"
    assert "failed" not in events


async def test_who_keeps_asking_is_told_that_it_is_unavailable(tiny: Path, pixels: np.ndarray) -> None:
    async with (
        node("device_agent", tiny, "--drain-delay-seconds", "0.1") as agent,
        AsyncClient(agent.address) as client,
    ):
        load = Load(client, pixels)
        await load.under_way()
        agent.process.send_signal(signal.SIGTERM)
        await load.until_refused()
        code, _ = await agent.ended()
    assert len(load.refused) == 8
    assert all(isinstance(error, Unavailable) for error in load.refused)
    assert sum(isinstance(error, Draining) for error in load.refused) >= 5, "most reach a server that says why"
    assert code == 0


async def test_an_edge_that_drains_under_load_is_missed_by_nobody(tiny: Path, pixels: np.ndarray) -> None:
    async with (
        node("edge_node", tiny) as edge,
        device(tiny, edge.address) as front,
        AsyncClient(front.address) as client,
    ):
        load = Load(client, pixels)
        await load.under_way()
        edge.process.send_signal(signal.SIGTERM)
        code, events = await edge.ended()
        answered = load.answered
        async with asyncio.timeout(PATIENCE):
            while load.answered < answered + 20:
                await asyncio.sleep(0.005)
        await load.stop()
    assert not load.refused
    assert load.degraded <= {"upstream_unavailable", "upstream_draining"}
    assert load.degraded
    assert code == 0
    assert events[-1] == "stopped"


@pytest.mark.parametrize("module", ["edge_node", "cloud_node"])
async def test_an_idle_node_ends_on_either_signal_with_0(tiny: Path, module: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        async with node(module, tiny, "--drain-delay-seconds", "0") as idle:
            idle.process.send_signal(number)
            assert await idle.ended() == (0, ["stopped"])


async def test_a_second_signal_ends_at_once(tiny: Path) -> None:
    ready = health_pb2.HealthCheckRequest(service="readiness")
    async with node("edge_node", tiny, "--drain-delay-seconds", "60") as edge, calling(edge.address) as call:

        async def draining() -> bool:
            return (await call(f"{HEALTH}/Check", ready)).status == health_pb2.HealthCheckResponse.NOT_SERVING

        edge.process.send_signal(signal.SIGTERM)
        await until(draining)
        started = asyncio.get_running_loop().time()
        edge.process.send_signal(signal.SIGTERM)
        code, events = await edge.ended()
    assert asyncio.get_running_loop().time() - started < 10
    assert code == -signal.SIGTERM
    assert "stopped" not in events


async def test_a_port_that_is_taken_is_one_line_and_exit_code_2(tiny: Path) -> None:
    async with device(tiny) as front:
        command = [sys.executable, "-m", "cloud_node", "--bundle", str(tiny), "--listen", front.address]
        command += ["--metrics-listen", "-"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
        )
        _, log = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 2
    last = log.decode().splitlines()[-1]
    assert last == f"{Tier.CLOUD.label}: cannot listen on {front.address}: in use, or not an address of this machine"
    assert b"Traceback" not in log


async def test_a_tier_about_to_drain_is_alive_but_not_ready_and_answers_still(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny) as front, calling(front.address) as call:
        draining = asyncio.create_task(front.server.drain(PATIENCE, 0))

        async def status(service: str) -> int:
            return int((await call(f"{HEALTH}/Check", health_pb2.HealthCheckRequest(service=service))).status)

        async def not_ready() -> bool:
            return await status("readiness") == health_pb2.HealthCheckResponse.NOT_SERVING

        await until(not_ready)
        assert await status("liveness") == health_pb2.HealthCheckResponse.SERVING
        assert not (await call(f"{DOOR}/ServerReady", messages.ServerReadyRequest())).ready
        assert not (await call(f"{DOOR}/ModelReady", messages.ModelReadyRequest(name="tiny"))).ready
        (model,) = (await call(f"{DOOR}/RepositoryIndex", messages.RepositoryIndexRequest())).models
        assert (model.state, model.reason) == ("UNAVAILABLE", "the tier is shutting down")
        assert (await call(f"{DOOR}/ModelInfer", asking(pixels[:1]))).outputs
        draining.cancel()


def test_a_device_that_does_not_hold_its_part_of_the_plan_does_not_start(tiny: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    command = [sys.executable, "-m", "device_agent", "--bundle", str(tiny), "--listen", "127.0.0.1:0"]
    command += ["--holds", "0:1", "--splits", "2,4"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds 0:1, the plan gives it 0:2" in done.stderr
