"""What a caller sees when a tier above is gone, going, full or of another model."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from device_agent.client import AsyncClient, Prediction
from services import bundle
from services.domain import Segment, Tier
from services.errors import DeadlineExceeded, TooLarge, UpstreamUnavailable
from testbed.links import EmulatedLink, symmetric
from tests.calls import in_time, until
from tests.tiers import Running, device, three_tiers, upper

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return bundle.load_samples(bundle.load(tiny))[0][..., None]


@pytest.fixture
async def nobody(tiny: Path) -> str:
    """An address where a tier was, and is no more."""
    async with upper(Tier.EDGE, tiny) as gone:
        return gone.address


def reasons(answers: list[Prediction]) -> set[str]:
    return {answer.degraded_reason for answer in answers if answer.degraded}


async def test_without_a_cloud_the_edge_finishes_and_says_so(tiny: Path, pixels: np.ndarray, nobody: str) -> None:
    async with (
        three_tiers(tiny) as whole,
        upper(Tier.EDGE, tiny, nobody) as edge,
        device(tiny, edge.address) as front,
        AsyncClient(front.address) as client,
        AsyncClient(whole.device.address) as reference,
    ):
        answers = await client.infer("tiny", pixels)
        expected = await reference.infer("tiny", pixels)
    assert {answer.tier for answer in answers} == {Tier.DEVICE, Tier.EDGE}
    assert reasons(answers) == {"upstream_unavailable"}
    for got, sure in zip(answers, expected, strict=True):
        assert got.degraded == (sure.tier is Tier.CLOUD)
        assert got.exit_index == sure.exit_index


async def test_a_cloud_that_dies_between_requests_is_missed_by_nobody(tiny: Path, pixels: np.ndarray) -> None:
    async with AsyncExitStack() as stack:
        cloud = AsyncExitStack()
        above = await cloud.enter_async_context(upper(Tier.CLOUD, tiny))
        edge = await stack.enter_async_context(upper(Tier.EDGE, tiny, above.address))
        front = await stack.enter_async_context(device(tiny, edge.address))
        client = await stack.enter_async_context(AsyncClient(front.address))
        assert not reasons(await client.infer("tiny", pixels))
        await cloud.aclose()
        answers = await client.infer("tiny", pixels)
    assert reasons(answers) == {"upstream_unavailable"}
    assert {answer.tier for answer in answers if answer.degraded} == {Tier.EDGE}


async def test_an_edge_that_holds_only_its_part_answers_with_its_exit(
    tiny: Path, pixels: np.ndarray, nobody: str
) -> None:
    async with (
        upper(Tier.EDGE, tiny, nobody, holds=Segment(2, 4)) as edge,
        device(tiny, edge.address) as front,
        AsyncClient(front.address) as client,
    ):
        answers = await client.infer("tiny", pixels)
    assert {answer.exit_index for answer in answers} == {0, 1}
    assert reasons(answers) == {"upstream_unavailable"}


async def test_a_device_that_holds_only_its_part_answers_with_its_exit(
    tiny: Path, pixels: np.ndarray, nobody: str
) -> None:
    async with (
        device(tiny, nobody, holds=Segment(0, 2)) as front,
        AsyncClient(front.address) as client,
    ):
        answers = await client.infer("tiny", pixels)
    assert {answer.exit_index for answer in answers} == {0}
    assert reasons(answers) == {"upstream_unavailable"}


async def test_only_where_nobody_reached_an_exit_the_request_fails(tiny: Path, pixels: np.ndarray, nobody: str) -> None:
    async with (
        device(tiny, nobody, holds=Segment(0, 1), splits="1,4") as front,
        AsyncClient(front.address) as client,
    ):
        with pytest.raises(UpstreamUnavailable):
            await client.infer("tiny", pixels)


async def test_a_full_edge_is_named_and_a_full_cloud_too(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        for full, answering in ((tiers.edge, Tier.DEVICE), (tiers.cloud, Tier.EDGE)):
            full.limiter.max_in_flight = 0
            answers = await client.infer("tiny", pixels)
            assert reasons(answers) == {"upstream_overloaded"}
            assert {answer.tier for answer in answers if answer.degraded} == {answering}
            full.limiter.max_in_flight = 64
        assert not reasons(await client.infer("tiny", pixels))


async def test_another_model_with_other_shapes_upstream_is_named_too(tiny: Path, pixels: np.ndarray) -> None:
    digits = Path(__file__).parents[2] / "models" / "digits"
    if not digits.is_dir():
        pytest.skip("no models/digits")
    async with (
        upper(Tier.EDGE, digits) as edge,
        device(tiny, edge.address) as front,
        AsyncClient(front.address) as client,
    ):
        answers = await client.infer("tiny", pixels)
    assert reasons(answers) == {"upstream_mismatch"}


async def test_an_edge_that_breaks_is_named_and_says_nothing_more(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        await client.infer("tiny", pixels)
        tiers.edge.runtime.profiler = None  # type: ignore[assignment]
        answers = await client.infer("tiny", pixels)
    assert reasons(answers) == {"upstream_error"}


async def test_a_deadline_too_short_for_anything_is_exceeded(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        with pytest.raises(DeadlineExceeded):
            await client.infer("tiny", pixels, timeout_seconds=1e-4)
        assert len(await client.infer("tiny", pixels)) == 40


async def test_what_the_edge_finds_wrong_with_the_request_is_the_callers_to_know(
    tiny: Path, pixels: np.ndarray
) -> None:
    async with (
        upper(Tier.EDGE, tiny, max_batch=2) as edge,
        device(tiny, edge.address) as front,
        AsyncClient(front.address) as client,
    ):
        with pytest.raises(TooLarge, match="this tier takes 2"):
            await client.infer("tiny", pixels)


async def restarted(stack: AsyncExitStack, tier: Tier, path: Path, gone: Running, above: str | None) -> Running:
    """The same tier on the same port again."""
    again = await stack.enter_async_context(upper(tier, path, above, listen=gone.address))
    assert again.address == gone.address
    return again


@pytest.mark.parametrize("tier", [Tier.CLOUD, Tier.EDGE])
async def test_a_tier_that_comes_back_is_used_again_by_itself(tiny: Path, pixels: np.ndarray, tier: Tier) -> None:
    async with AsyncExitStack() as stack:
        first = AsyncExitStack()
        cloud = await (first if tier is Tier.CLOUD else stack).enter_async_context(upper(Tier.CLOUD, tiny))
        edge = await (first if tier is Tier.EDGE else stack).enter_async_context(upper(Tier.EDGE, tiny, cloud.address))
        front = await stack.enter_async_context(device(tiny, edge.address))
        client = await stack.enter_async_context(AsyncClient(front.address))
        assert not reasons(await client.infer("tiny", pixels))
        await first.aclose()
        assert reasons(await client.infer("tiny", pixels)) == {"upstream_unavailable"}
        gone, above = (cloud, None) if tier is Tier.CLOUD else (edge, cloud.address)
        await restarted(stack, tier, tiny, gone, above)

        async def whole_again() -> bool:
            return not reasons(await client.infer("tiny", pixels))

        await until(whole_again, seconds=10)


async def test_a_degraded_answer_still_accounts_for_its_time(tiny: Path, pixels: np.ndarray, nobody: str) -> None:
    async with device(tiny, nobody) as front, AsyncClient(front.address) as client:
        trace = (await client.infer("tiny", pixels, trace=True))[0].trace
    assert trace is not None
    assert [hop["tier"] for hop in trace["hops"]] == ["client", "device"]
    assert json.dumps(trace, allow_nan=False)


async def test_a_link_too_slow_for_the_deadline_gives_the_best_exit_in_time(tiny: Path, pixels: np.ndarray) -> None:
    up, down = symmetric(1e6, round_trip_seconds=0.6)
    async with upper(Tier.EDGE, tiny) as edge:
        host, port = edge.address.split(":")
        link = EmulatedLink(("127.0.0.1", 0), (host, int(port)), up, down)
        link.start()
        try:
            async with device(tiny, "{}:{}".format(*link.address)) as front, AsyncClient(front.address) as client:
                for _ in range(3):
                    answers = await in_time(lambda: client.infer("tiny", pixels, timeout_seconds=0.3), 0.3)
                    assert reasons(answers) == {"deadline"}
                    assert {answer.tier for answer in answers} == {Tier.DEVICE}
        finally:
            link.close()
