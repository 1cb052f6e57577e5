"""The Python client, blocking and async, against running tiers and against one that fails."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from device_agent.client import AsyncClient, Client, Prediction, Wishes
from services import bundle
from services.domain import Tier
from services.errors import DeadlineExceeded, InvalidInput, Unavailable, UnknownModel
from services.open_inference import messages
from tests.tiers import three_tiers


@pytest.fixture(scope="module")
def images(tiny: Path) -> np.ndarray:
    """uint8 [N, 8, 8]"""
    return bundle.load_samples(bundle.load(tiny))[0]


@asynccontextmanager
async def asked(tiny: Path) -> AsyncIterator[AsyncClient]:
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        yield client


async def test_an_array_an_image_and_a_file_get_the_same_answer(tiny: Path, images: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", images[0])
    given = [images[0], Image.fromarray(images[0]), tmp_path / "a.png", str(tmp_path / "a.npy")]
    async with asked(tiny) as client:
        answers = [await client.predict(sample) for sample in given]
    assert len({(answer.label, answer.confidence, answer.tier) for answer in answers}) == 1
    assert isinstance(answers[0].tier, Tier)


async def test_the_blocking_client_answers_as_the_other(tiny: Path, images: np.ndarray) -> None:
    def blocking(address: str) -> list[Prediction]:
        with Client(address) as client:
            return [client.predict(images[0]), *client.predict_many(images[:3], "tiny", trace=True)]

    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        first, *three = await asyncio.to_thread(blocking, tiers.device.address)
        expected = await client.predict_many(images[:3])
    assert first.label == expected[0].label
    assert [answer.label for answer in three] == [answer.label for answer in expected]
    assert three[0].trace is not None
    assert [hop["tier"] for hop in three[0].trace["hops"]][:2] == ["client", "device"]


async def test_several_samples_are_not_one(tiny: Path, images: np.ndarray) -> None:
    async with asked(tiny) as client:
        with pytest.raises(InvalidInput, match="predict_many"):
            await client.predict(images[:2])


async def test_a_threshold_above_one_goes_all_the_way(tiny: Path, images: np.ndarray) -> None:
    async with asked(tiny) as client:
        near = await client.predict(images[0], exit_threshold=0)
        far = await client.predict(images[0], exit_threshold=1.5)
    assert (near.exit_index, near.tier, far.exit_index, far.tier) == (0, Tier.DEVICE, 2, Tier.CLOUD)


async def test_a_wish_that_does_not_exist_is_an_error_at_once(tiny: Path, images: np.ndarray) -> None:
    async with asked(tiny) as client:
        with pytest.raises(TypeError, match="thresold"):
            await client.predict(images[0], thresold=0.5)


async def test_what_the_server_refuses_is_raised_as_the_error_it_is(tiny: Path, images: np.ndarray) -> None:
    async with asked(tiny) as client:
        with pytest.raises(UnknownModel, match="nosuch"):
            await client.predict(images[0], "nosuch")
        with pytest.raises(InvalidInput, match="exit_threshold"):
            await client.predict(images[0], exit_threshold=-1)


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_an_early_answer_comes_first_and_the_last_is_final(tiny: Path, images: np.ndarray, kind: str) -> None:
    hard = Wishes(exit_threshold=1.5)
    async with three_tiers(tiny) as tiers:
        if kind == "blocking":
            with Client(tiers.device.address) as client:
                answers = await asyncio.to_thread(lambda: list(client.stream(images[0], wishes=hard)))
        else:
            async with AsyncClient(tiers.device.address) as client:
                answers = [answer async for answer in client.stream(images[0], wishes=hard)]
    assert [answer.final for answer in answers] == [False] * (len(answers) - 1) + [True]
    assert (answers[0].exit_index, answers[-1].exit_index) == (0, 2)


async def test_a_stream_raises_the_error_it_is_told(tiny: Path, images: np.ndarray) -> None:
    async with asked(tiny) as client:
        with pytest.raises(InvalidInput, match="exit_threshold"):
            [answer async for answer in client.stream(images[0], wishes=Wishes(exit_threshold=-1))]


class Failing:
    """A public door that says UNAVAILABLE `times` times, then gives its metadata."""

    def __init__(self, times: int):
        self.times, self.calls, self._lock = times, 0, threading.Lock()

    def metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            self.calls += 1
            again = self.calls <= self.times
        if again:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        reply = messages.ModelMetadataResponse(name="m", versions=["1"])
        reply.inputs.add(name="input", datatype="FP32", shape=[-1, 4])
        return reply


@contextmanager
def failing(times: int) -> Iterator[tuple[str, Failing]]:
    door = Failing(times)
    method = grpc.unary_unary_rpc_method_handler(
        door.metadata, messages.ModelMetadataRequest.FromString, lambda message: message.SerializeToString()
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(messages.SERVICE, {"ModelMetadata": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", door
    finally:
        server.stop(None).wait(5)


def test_a_tier_that_is_unavailable_for_a_moment_is_asked_again() -> None:
    with failing(2) as (address, door), Client(address) as client:
        assert client.model().name == "m"
        assert client.model().name == "m"
    assert door.calls == 3


def test_a_tier_that_stays_unavailable_is_not_asked_forever() -> None:
    with (
        failing(100) as (address, door),
        Client(address, timeout_seconds=20) as client,
        pytest.raises(Unavailable, match="not now"),
    ):
        client.model()
    assert door.calls == 3


@contextmanager
def silent() -> Iterator[str]:
    """An address where connections are taken, and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_no_call_outlives_its_deadline() -> None:
    with (
        silent() as address,
        Client(address, timeout_seconds=0.2) as client,
        pytest.raises((DeadlineExceeded, Unavailable)),
    ):
        client.model()


IMAGE = np.zeros((8, 8), np.uint8)
WAYS: list[Callable[[Any, float], Any]] = [
    lambda client, seconds: client.predict(IMAGE, timeout_seconds=seconds),
    lambda client, seconds: client.predict_many(IMAGE[None], timeout_seconds=seconds),
    lambda client, seconds: next(client.stream(IMAGE, timeout_seconds=seconds)),
]
"""Of asking for an answer, each of which asks what the model is first."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_calls_own_deadline_holds_for_the_first_one_too(way: Callable[[Any, float], Any], seconds: float) -> None:
    with silent() as address, Client(address, timeout_seconds=60.0) as client:
        began = time.monotonic()
        with pytest.raises((DeadlineExceeded, Unavailable)):
            way(client, seconds)
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("seconds", [0.0, 0.2])
async def test_so_it_does_where_nothing_blocks(seconds: float) -> None:
    with silent() as address:
        async with AsyncClient(address, timeout_seconds=60.0) as client, asyncio.timeout(20):
            for asking in (client.predict(IMAGE, timeout_seconds=seconds), anext(client.stream(IMAGE, "", seconds))):
                with pytest.raises((DeadlineExceeded, Unavailable)):
                    await asking


async def test_calls_of_a_client_that_is_closed_say_so() -> None:
    with silent() as address:
        client = AsyncClient(address)
        asking = [asyncio.create_task(client.model()) for _ in range(2)]
        await asyncio.sleep(0)
        asking[1].cancel()
        await client.close()
        with pytest.raises(Unavailable, match="this client was closed"):
            await asking[0]
        with pytest.raises(asyncio.CancelledError):
            await asking[1]
        with pytest.raises(Unavailable, match="this client was closed"):
            await anext(client.stream(IMAGE))


def test_calls_of_a_blocking_client_that_is_closed_say_so() -> None:
    with silent() as address, futures.ThreadPoolExecutor(1) as pool:
        client, began = Client(address), threading.Event()
        call = client._channel.unary_unary

        def noted(*given: Any) -> Any:
            began.set()
            return call(*given)

        client._channel.unary_unary = noted  # type: ignore[method-assign]
        asking = pool.submit(client.model)
        assert began.wait(10)
        client.close()
        with pytest.raises(Unavailable):
            asking.result(20)
        with pytest.raises(Unavailable, match="this client was closed"):
            client.model()
