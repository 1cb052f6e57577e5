"""Metrics of three real tiers after real traffic: every request is in them, once in each respect."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import pytest

from device_agent.client import AsyncClient
from services.domain import Tier
from services.metrics import calls, table, triton
from tests.calls import DOOR, HEALTH, TIER, asking, calling, until
from tests.networks import SHAPE
from tests.scraping import Values, scrape, total
from tests.tiers import ThreeTiers, device, three_tiers, upper

ANYWHERE = {"metrics_listen": "127.0.0.1:0"}
REQUESTS, SAMPLES = 12, 20
CODES = ("DeadlineExceeded", "Canceled")
UNKNOWN_AT_FIRST = {
    "offramp_link_rtt_seconds": "the link of a test that sends little may stay unknown",
    "offramp_link_rate_bytes_per_second": "the same",
    "offramp_regret_seconds": "needs a planner and known links",
    "offramp_expected_exit_ratio": "needs a calibration",
    "offramp_calibrated_accuracy": "the same",
    "offramp_contract_accuracy_loss": "the same",
    "offramp_split_decisions_total": "on the device alone",
}


@asynccontextmanager
async def measured(path: Path) -> AsyncIterator[ThreeTiers]:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(upper(Tier.CLOUD, path, **ANYWHERE))
        edge = await stack.enter_async_context(upper(Tier.EDGE, path, cloud.address, **ANYWHERE))
        front = await stack.enter_async_context(device(path, edge.address, **ANYWHERE))
        yield ThreeTiers(front, edge, cloud)


async def pages(tiers: ThreeTiers) -> list[Values]:
    return [await scrape(str(tier.metrics)) for tier in (tiers.device, tiers.edge, tiers.cloud)]


def inputs(count: int = SAMPLES) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, *SHAPE[1:], 1), dtype=np.uint8)


@pytest.fixture
async def after_traffic(tiny: Path) -> AsyncIterator[list[Values]]:
    async with measured(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        await asyncio.gather(*(client.infer("tiny", inputs()) for _ in range(REQUESTS)))
        yield await pages(tiers)


async def test_every_sample_is_in_the_exits_of_one_tier(after_traffic: list[Values]) -> None:
    at_device, at_edge, at_cloud = after_traffic
    assert total(after_traffic, "offramp_exits_total") == REQUESTS * SAMPLES
    assert total(at_device, "offramp_samples_total") == REQUESTS * SAMPLES
    assert total(at_device, "offramp_forwarded_samples_total") == total(at_edge, "offramp_samples_total")
    assert total(at_edge, "offramp_forwarded_samples_total") == total(at_cloud, "offramp_samples_total")
    assert total(at_cloud, "offramp_forwarded_samples_total") == 0
    for page in after_traffic:
        assert total(page, "offramp_exits_total") == total(page, "offramp_exit_confidence_count") > 0


async def test_every_request_is_counted_by_each_convention(after_traffic: list[Values]) -> None:
    for page in after_traffic:
        assert total(page, "offramp_requests_total", outcome="ok") == REQUESTS
        assert total(page, "offramp_request_seconds_count") == REQUESTS
        assert total(page, "nv_inference_request_success", model="tiny", version="1") == REQUESTS
        assert total(page, "nv_inference_count") == total(page, "offramp_samples_total")
        assert total(page, "offramp_request_errors_total") == 0
    method = {"grpc_service": DOOR, "grpc_method": "ModelInfer", "grpc_type": "unary"}
    assert total(after_traffic[0], "grpc_server_started_total", **method) == REQUESTS
    assert total(after_traffic[0], "grpc_server_handled_total", grpc_code="OK", **method) == REQUESTS
    assert total(after_traffic[0], "grpc_server_msg_received_total", **method) == REQUESTS
    assert total(after_traffic[0], "grpc_server_msg_sent_total", **method) == REQUESTS
    assert total(after_traffic[0], "grpc_server_handling_seconds_count", **method) == REQUESTS


async def test_what_one_tier_sends_the_next_receives(after_traffic: list[Values]) -> None:
    for lower, above in pairwise(after_traffic):
        for sent, received in (("msg_sent", "msg_received"), ("msg_received", "msg_sent")):
            here = total(lower, f"grpc_client_{sent}_total", grpc_service=TIER)
            assert here == total(above, f"grpc_server_{received}_total", grpc_service=TIER) > 0
        assert total(lower, "grpc_client_started_total") == total(above, "grpc_server_started_total", grpc_service=TIER)


async def test_the_stages_of_all_tiers_add_up_to_what_the_device_took(after_traffic: list[Values]) -> None:
    stages = total(after_traffic, "offramp_stage_seconds_total")
    assert stages == pytest.approx(total(after_traffic[0], "offramp_request_seconds_sum"), rel=1e-6)


async def test_every_series_of_the_table_is_there(after_traffic: list[Values]) -> None:
    names = {name.removesuffix("_bucket") for page in after_traffic for name, _ in page}
    groups = (*table.GROUPS, calls.SERVER, calls.CLIENT, triton.TRITON)
    missing = {each.name for group in groups for each in group.series} - names
    assert missing <= set(UNKNOWN_AT_FIRST)


async def test_every_series_on_a_page_is_in_the_table(after_traffic: list[Values]) -> None:
    groups = (*table.GROUPS, calls.SERVER, calls.CLIENT, triton.TRITON)
    known = {each.name: set(each.labels) for group in groups for each in group.series}
    for page in after_traffic:
        for name, labels in page:
            plain = name if name in known else name.rpartition("_")[0]
            if not plain.startswith(("process_", "python_")):
                assert {label for label, _ in labels} - {"le"} == known[plain], name


async def test_who_asks_right_after_a_burst_finds_all_of_it_counted(tiny: Path) -> None:
    """Telling of requests waits for more of them; who asks does not."""
    async with upper(Tier.CLOUD, tiny, **ANYWHERE) as cloud, calling(cloud.address) as call:
        for _ in range(REQUESTS):
            await call(f"{DOOR}/ModelInfer", asking(inputs(1)))
        said = await call(f"{DOOR}/ModelStatistics", b"")
        for _ in range(REQUESTS):
            await call(f"{DOOR}/ModelInfer", asking(inputs(1)))
        page = await scrape(str(cloud.metrics))
    assert said.model_stats[0].inference_count == REQUESTS
    assert total(page, "offramp_requests_total") == total(page, "nv_inference_request_success") == 2 * REQUESTS


async def test_errors_are_counted_by_reason_and_by_code(tiny: Path) -> None:
    async with measured(tiny) as tiers, calling(tiers.device.address) as call:
        wrong = [asking(inputs(), model_name="another"), asking(inputs()[:, :3]), b"\xff\xff"]
        for request in wrong:
            with pytest.raises(grpc.aio.AioRpcError):
                await call(f"{DOOR}/ModelInfer", request)
        await call(f"{HEALTH}/Check", b"")
        with pytest.raises(grpc.aio.AioRpcError):
            await call("no.such/Method", b"")
        page = await scrape(str(tiers.device.metrics))
    assert total(page, "offramp_request_errors_total", reason="MODEL_NOT_FOUND") == 1
    assert total(page, "offramp_request_errors_total", reason="INVALID_INPUT") == 2
    method = {"grpc_method": "ModelInfer"}
    assert total(page, "grpc_server_handled_total", grpc_code="NotFound", **method) == 1
    assert total(page, "grpc_server_handled_total", grpc_code="InvalidArgument", **method) == 2
    assert total(page, "grpc_server_handled_total", **method) == 3
    assert total(page, "grpc_server_handled_total", grpc_method="Check", grpc_code="OK") == 1
    assert total(page, "nv_inference_request_failure", reason="OTHER") == 1
    assert not any("no.such" in dict(labels).values() for _, labels in page)


async def test_who_is_answered_below_a_dead_cloud_is_degraded_at_the_edge_alone(tiny: Path) -> None:
    async with upper(Tier.CLOUD, tiny) as gone:
        address = gone.address
    async with AsyncExitStack() as stack:
        edge = await stack.enter_async_context(upper(Tier.EDGE, tiny, address, **ANYWHERE))
        front = await stack.enter_async_context(device(tiny, edge.address, **ANYWHERE))
        client = await stack.enter_async_context(AsyncClient(front.address))
        answers = await client.infer("tiny", inputs())
        at_device, at_edge = [await scrape(str(tier.metrics)) for tier in (front, edge)]
    degraded = sum(answer.degraded for answer in answers)
    assert total(at_edge, "offramp_degraded_total", reason="upstream_unavailable") == degraded > 0
    assert total(at_device, "offramp_degraded_total") == 0
    assert total([at_device, at_edge], "offramp_exits_total") == SAMPLES
    assert total(at_device, "offramp_requests_total", outcome="degraded") == 1
    assert total(at_edge, "offramp_upstream_state", upstream=address) in (0, 1, 2)


async def test_a_stream_is_one_call_whose_messages_count(tiny: Path) -> None:
    async with measured(tiny) as tiers, AsyncClient(tiers.device.address) as client:
        answers = [answer async for answer in client.stream(inputs(1)[0])]
        page = await scrape(str(tiers.device.metrics))
    method = {"grpc_method": "ModelStreamInfer", "grpc_type": "bidi_stream"}
    assert total(page, "grpc_server_started_total", **method) == 1
    assert total(page, "grpc_server_msg_received_total", **method) == 1
    assert total(page, "grpc_server_msg_sent_total", **method) == len(answers)
    assert total(page, "offramp_requests_total") == 1


async def test_triton_names_can_be_left_out(tiny: Path) -> None:
    async with upper(Tier.CLOUD, tiny, compat_metrics="none", **ANYWHERE) as cloud:
        page = await scrape(str(cloud.metrics))
    assert not any(name.startswith("nv_") for name, _ in page)


async def test_a_message_that_does_not_come_in_time_is_late_and_not_wrong(tiny: Path) -> None:
    async with (
        upper(Tier.CLOUD, tiny, **ANYWHERE) as cloud,
        grpc.aio.insecure_channel(cloud.address) as channel,
    ):

        async def count(name: str) -> float:
            return total(await scrape(str(cloud.metrics)), f"grpc_server_{name}_total", grpc_method="Infer")

        async def begun() -> bool:
            return await count("started") == 2

        async def ended() -> bool:
            return await count("handled") == 2

        never_sent = channel.stream_unary(f"/{TIER}/Infer")
        assert await never_sent(timeout=0.3).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        given_up = never_sent()
        await until(begun)
        given_up.cancel()
        await until(ended)
        page = await scrape(str(cloud.metrics))
    assert total(page, "offramp_request_errors_total", reason="DEADLINE_EXCEEDED") == 1
    assert total(page, "offramp_request_errors_total", reason="INVALID_INPUT") == 0
    codes = {code: total(page, "grpc_server_handled_total", grpc_method="Infer", grpc_code=code) for code in CODES}
    assert codes == dict.fromkeys(CODES, 1)


async def test_a_request_that_runs_out_of_time_while_it_computes_is_counted_once(tiny: Path) -> None:
    slow = {"compute_slowdown": 2.0, **ANYWHERE}
    async with device(tiny, **slow) as front, grpc.aio.insecure_channel(front.address) as channel:
        front.runtime.model._sleep = lambda seconds: time.sleep(0.5)
        ask = channel.unary_unary(f"/{DOOR}/ModelInfer", request_serializer=lambda each: each.SerializeToString())
        for _ in range(3):
            assert await ask(asking(inputs(1)), timeout=0.1).code() is grpc.StatusCode.DEADLINE_EXCEEDED

        async def ended() -> bool:
            return total(await scrape(str(front.metrics)), "grpc_server_handled_total", grpc_method="ModelInfer") == 3

        await until(ended)
        page = await scrape(str(front.metrics))
    assert total(page, "offramp_request_errors_total", reason="DEADLINE_EXCEEDED") == 3
    assert total(page, "grpc_server_handled_total", grpc_method="ModelInfer", grpc_code="DeadlineExceeded") == 3
    assert total(page, "nv_inference_request_failure", reason="CANCELED") == 3


async def test_a_tier_whose_metrics_port_is_taken_says_so_and_ends_with_2(tiny: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = ("-m", "cloud_node", "--bundle", str(tiny), "--listen", "127.0.0.1:0", "--metrics-listen", address)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        _, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert said.decode().splitlines()[-1].startswith(f"cloud: metrics cannot be served on {address}")


async def test_a_process_says_where_its_metrics_are_and_ends_with_them(tiny: Path) -> None:
    command = ("-m", "cloud_node", "--bundle", str(tiny), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, "--profile-seconds", "0", stderr=asyncio.subprocess.PIPE
    )
    try:
        said: dict[str, str] = {}
        assert process.stderr is not None
        while said.get("event") != "ready":
            said = json.loads(await asyncio.wait_for(process.stderr.readline(), 60))
        page = await scrape(said["metrics"])
        process.terminate()
        await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert total(page, "offramp_model_info", model="tiny", tier="cloud") == 1
    assert total(page, "offramp_warmup_seconds", model="tiny") > 0


async def test_nothing_is_served_where_the_settings_say_nowhere(tiny: Path) -> None:
    async with three_tiers(tiny) as tiers:
        assert tiers.device.metrics is None
