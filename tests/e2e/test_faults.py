"""Everything that a tier above can do wrong, in one table: the answer comes from what is left, and says why."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from device_agent.client import AsyncClient, Prediction
from services import bundle, log
from services.domain import Segment, Tier
from services.pb.offramp.v1 import tier_pb2 as pb
from tests.calls import in_time, until
from tests.certificates import Signer
from tests.e2e.test_drain import Node, node
from tests.far_side import FarSide, serving, streams_of
from tests.networks import write_bundle
from tests.scraping import scrape, total
from tests.tiers import device, upper

SECONDS = 2.0
QUICK = ("--profile-seconds", "0")


@dataclass(slots=True)
class Scene:
    """Where a fault is made: the bundle of the device, room for files, and what ends with the test.

    target: of the device; settings: what else it is given. begins: makes it go wrong, once a request was answered.
    """

    tiny: Path
    folder: Path
    stack: AsyncExitStack
    target: str = ""
    settings: dict[str, object] | None = None
    begins: Callable[[], None] | None = None

    async def edge(self, path: Path | None = None, **settings: object) -> Any:
        running = await self.stack.enter_async_context(upper(Tier.EDGE, path or self.tiny, **settings))
        self.target = running.address
        return running

    async def process(self, *arguments: str) -> Node:
        running = await self.stack.enter_async_context(node("edge_node", self.tiny, *QUICK, *arguments))
        self.target = running.address
        return running


async def killed(scene: Scene) -> None:
    edge = await scene.process()
    scene.begins = edge.process.kill


async def paused(scene: Scene) -> None:
    edge = await scene.process()
    scene.begins = lambda: edge.process.send_signal(signal.SIGSTOP)


async def killed_while_it_answers(scene: Scene) -> None:
    edge = await scene.process("--compute-slowdown", "1000")
    scene.begins = lambda: asyncio.get_running_loop().call_later(0.05, edge.process.kill) and None


async def draining(scene: Scene) -> None:
    edge = await scene.edge()
    scene.begins = lambda: setattr(edge.limiter, "draining", True)


async def overloaded(scene: Scene) -> None:
    edge = await scene.edge()
    scene.begins = lambda: setattr(edge.limiter, "max_in_flight", 0)


async def warming_up(scene: Scene) -> None:
    edge = await scene.edge()
    scene.begins = lambda: setattr(edge.limiter, "warm", False)


async def breaking(scene: Scene) -> None:
    edge = await scene.edge()
    scene.begins = lambda: setattr(edge.runtime, "backlog", None)


async def of_another_model(scene: Scene) -> None:
    await scene.edge(write_bundle(scene.folder / "other", seed=1))


async def holding_another_part(scene: Scene) -> None:
    await scene.edge(holds=Segment(6, 8))


async def garbage(scene: Scene) -> None:
    async def answer(request: bytes, context: object) -> bytes:
        return b"\xff" * 40

    await _foreign(scene, answer)


async def another_shape(scene: Scene) -> None:
    far = FarSide()
    await scene.stack.enter_async_context(serving(far, streams_of(far).exchange))
    scene.target = far.address


async def an_exit_that_is_none(scene: Scene) -> None:
    async def answer(request: bytes, context: object) -> bytes:
        count = pb.InferRequest.FromString(request).activation.shape[0]
        scores = np.full((count, 4), 0.25, "<f4").tobytes()
        confidences = np.ones(count, "<f4").tobytes()
        found = pb.Predictions(
            classes=4, scores=scores, confidences=confidences, exits=[9] * count, tiers=[2] * count, reasons=[0] * count
        )
        return pb.InferReply(predictions=found).SerializeToString()

    await _foreign(scene, answer)


async def no_tier(scene: Scene) -> None:
    scene.target = (await scene.stack.enter_async_context(device(scene.tiny))).address


async def an_expired_certificate(scene: Scene) -> None:
    signer = Signer.at(scene.folder / "certs")
    old, own = signer.expired("edge"), signer.party("device")
    server = grpc.aio.server()
    credentials = grpc.ssl_server_credentials([(old.key.read_bytes(), old.cert.read_bytes())])
    scene.target = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    await server.start()
    scene.stack.push_async_callback(server.stop, 0)
    scene.settings = own.calling()


async def silent(scene: Scene) -> None:
    server = await asyncio.start_server(lambda _, writer: scene.stack.callback(writer.close), "127.0.0.1", 0)
    scene.stack.callback(server.close)
    scene.target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def _foreign(scene: Scene, answer: Callable[[bytes, object], Awaitable[bytes]]) -> None:
    """A server that says of itself that it is a tier."""
    server = grpc.aio.server()
    methods = {"Infer": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("offramp.v1.Tier", methods),))
    scene.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    scene.stack.push_async_callback(server.stop, 0)


FAULTS: dict[Callable[[Scene], Awaitable[None]], set[str]] = {
    killed: {"upstream_unavailable"},
    paused: {"deadline", "upstream_unavailable"},
    killed_while_it_answers: {"upstream_unavailable"},
    draining: {"upstream_draining"},
    overloaded: {"upstream_overloaded"},
    warming_up: {"upstream_unavailable"},
    breaking: {"upstream_error"},
    of_another_model: {"upstream_mismatch"},
    holding_another_part: {"upstream_mismatch"},
    garbage: {"upstream_error"},
    another_shape: {"upstream_error"},
    an_exit_that_is_none: {"upstream_error"},
    no_tier: {"upstream_error"},
    an_expired_certificate: {"upstream_unavailable"},
    silent: {"deadline", "upstream_unavailable"},
}


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return bundle.load_samples(bundle.load(tiny))[0][..., None]


def reasons(answers: list[Prediction]) -> set[str]:
    return {answer.degraded_reason for answer in answers if answer.degraded}


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What all tiers in this process log."""
    logger = logging.getLogger("offramp")
    handlers, level, propagates = logger.handlers[:], logger.level, logger.propagate
    text = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", text)
        log.configure("device", "info")
    yield text
    logger.handlers[:], logger.propagate = handlers, propagates
    logger.setLevel(level)


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_tier_above_that_fails_costs_no_answer_and_is_named(
    tiny: Path, pixels: np.ndarray, tmp_path: Path, logged: io.StringIO, fault: Any
) -> None:
    async with AsyncExitStack() as stack:
        scene = Scene(tiny, tmp_path, stack)
        await fault(scene)
        given = {"metrics_listen": "127.0.0.1:0", "splits": "2,8"} | (scene.settings or {})
        front = await stack.enter_async_context(device(tiny, scene.target, **given))
        client = await stack.enter_async_context(AsyncClient(front.address))
        if scene.begins is not None:
            assert not reasons(await client.infer("tiny", pixels))
            scene.begins()
        answers = await in_time(lambda: client.infer("tiny", pixels, timeout_seconds=SECONDS), SECONDS)
        found = reasons(answers)
        assert found
        assert found <= FAULTS[fault]
        assert {answer.tier for answer in answers} == {Tier.DEVICE}
        (reason,) = found
        count = sum(answer.degraded for answer in answers)
        assert front.metrics is not None
        counted = total(await scrape(front.metrics), "offramp_degraded_total", reason=reason)
        assert (counted > 0, counted % count) == (True, 0)  # those of a try that came too late may count as well
    assert {reason: count} in [json.loads(line).get("reasons") for line in logged.getvalue().splitlines()]


async def test_a_paused_tier_soon_costs_nobody_his_patience_and_is_used_again_when_it_goes_on(
    tiny: Path, pixels: np.ndarray
) -> None:
    async with (
        node("edge_node", tiny, *QUICK) as edge,
        device(tiny, edge.address, splits="2,8") as front,
        AsyncClient(front.address) as client,
    ):
        assert not reasons(await client.infer("tiny", pixels))
        edge.process.send_signal(signal.SIGSTOP)
        for within in (*[0.6] * 5, *[0.3] * 5):
            assert reasons(await in_time(lambda: client.infer("tiny", pixels, timeout_seconds=0.6), within))
        edge.process.send_signal(signal.SIGCONT)

        async def whole_again() -> bool:
            return not reasons(await client.infer("tiny", pixels, timeout_seconds=0.6))

        await until(whole_again, seconds=5.0)


async def test_a_tier_that_restarts_in_the_middle_of_a_request_is_used_again(tiny: Path, pixels: np.ndarray) -> None:
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(node("edge_node", tiny, *QUICK, "--compute-slowdown", "1000"))
        front = await stack.enter_async_context(device(tiny, edge.address, splits="2,8"))
        client = await stack.enter_async_context(AsyncClient(front.address))
        assert not reasons(await client.infer("tiny", pixels))
        asking = asyncio.create_task(client.infer("tiny", pixels))
        await asyncio.sleep(0.05)
        edge.process.kill()
        assert reasons(await asking) == {"upstream_unavailable"}
        await stack.enter_async_context(node("edge_node", tiny, *QUICK, "--listen", edge.address))

        async def whole_again() -> bool:
            return not reasons(await client.infer("tiny", pixels))

        await until(whole_again, seconds=5.0)
