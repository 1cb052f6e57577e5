"""A tier that serves several models, some in several versions."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from services import bundle
from services.domain import Tier
from services.errors import BundleError, ModelMismatch
from services.open_inference import messages
from tests.calls import DOOR, Call, arrays, asking, calling, reason
from tests.networks import write_bundle
from tests.tiers import device, three_tiers, upper

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`net` in versions 9 and 10, and `other`."""
    root = tmp_path_factory.mktemp("several")
    write_bundle(root / "net" / "9", 1, name="net", version="9")
    write_bundle(root / "net" / "10", 2, name="net", version="10")
    write_bundle(root / "other", 3, name="other")
    return root


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)


async def refused(call: Call, path: str, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(f"{DOOR}/{path}", request)
    assert reason(error.value)
    return error.value.code(), error.value.details() or ""


async def test_each_model_answers_for_itself_over_all_tiers(several: Path, pixels: np.ndarray) -> None:
    found: dict[str, dict[str, np.ndarray]] = {}
    async with three_tiers(several) as tiers, calling(tiers.device.address) as call:
        for name, version in (("net", "9"), ("net", "10"), ("other", "1")):
            request = asking(pixels, model_name=name, model_version=version)
            request.parameters["exit_threshold"].double_param = 1.5
            reply = await call(f"{DOOR}/ModelInfer", request)
            assert (reply.model_name, reply.model_version) == (name, version)
            found[name + version] = arrays(reply)
            assert set(found[name + version]["tier_index"].tolist()) == {2}
            assert not found[name + version]["degraded"].any()
        newest = await call(f"{DOOR}/ModelInfer", asking(pixels, model_name="net"))
    assert newest.model_version == "10"
    assert not np.allclose(found["net9"]["scores"], found["net10"]["scores"])
    assert not np.allclose(found["net9"]["scores"], found["other1"]["scores"])


async def test_what_a_model_is_called_decides_which_one_tells_of_itself(several: Path) -> None:
    async with device(several) as front, calling(front.address) as call:
        told = await call(f"{DOOR}/ModelMetadata", messages.ModelMetadataRequest(name="net"))
        assert (told.name, list(told.versions)) == ("net", ["9", "10"])
        assert (await call(f"{DOOR}/ModelReady", messages.ModelReadyRequest(name="net", version="9"))).ready
        config = (await call(f"{DOOR}/ModelConfig", messages.ModelConfigRequest(name="other"))).config
        assert config.name == "other"
        code, text = await refused(call, "ModelMetadata", messages.ModelMetadataRequest())
        assert (code, "'net', 'other'" in text) == (grpc.StatusCode.NOT_FOUND, True)
        code, text = await refused(call, "ModelReady", messages.ModelReadyRequest(name="net", version="1"))
        assert (code, "version 9, 10, not '1'" in text) == (grpc.StatusCode.NOT_FOUND, True)


async def test_the_index_tells_of_every_version(several: Path) -> None:
    async with device(several) as front, calling(front.address) as call:
        index = await call(f"{DOOR}/RepositoryIndex", messages.RepositoryIndexRequest())
        assert sorted((m.name, m.version, m.state) for m in index.models) == [
            ("net", "10", "READY"),
            ("net", "9", "READY"),
            ("other", "1", "READY"),
        ]
        elsewhere = await call(f"{DOOR}/RepositoryIndex", messages.RepositoryIndexRequest(repository_name="other"))
        assert not elsewhere.models
        front.limiter.draining = True
        index = await call(f"{DOOR}/RepositoryIndex", messages.RepositoryIndexRequest())
        assert {(m.state, bool(m.reason)) for m in index.models} == {("UNAVAILABLE", True)}
        ready = await call(f"{DOOR}/RepositoryIndex", messages.RepositoryIndexRequest(ready=True))
        assert not ready.models


async def test_each_model_has_a_queue_of_its_own(several: Path, pixels: np.ndarray) -> None:
    async with device(several, max_in_flight=1) as front, calling(front.address) as call:
        with front.models.named("net").limiter.admit():
            code, _ = await refused(call, "ModelInfer", asking(pixels, model_name="net"))
            assert code is grpc.StatusCode.UNAVAILABLE
            await call(f"{DOOR}/ModelInfer", asking(pixels, model_name="other"))
        assert front.limiter.rejected["QUEUE_FULL"] == 1


async def test_a_low_priority_is_refused_before_the_queue_is_full(tiny: Path, pixels: np.ndarray) -> None:
    low, ordinary = asking(pixels), asking(pixels)
    low.parameters["priority"].uint64_param, ordinary.parameters["priority"].int64_param = 2, 1
    async with device(tiny, max_in_flight=4) as front, calling(front.address) as call:
        queue = front.models.first.limiter
        with queue.admit(), queue.admit():
            await call(f"{DOOR}/ModelInfer", low)
            with queue.admit():
                code, _ = await refused(call, "ModelInfer", low)
                assert code is grpc.StatusCode.UNAVAILABLE
                await call(f"{DOOR}/ModelInfer", ordinary)


async def test_another_tier_that_lacks_a_model_says_which_it_holds(several: Path, tiny: Path) -> None:
    async with upper(Tier.CLOUD, [tiny, several]) as cloud, upper(Tier.EDGE, several, cloud.address) as edge:
        held = {each.manifest.model_hash for each in edge.models}
        with pytest.raises(ModelMismatch) as mismatch:
            edge.models.by_hash(bundle.load(tiny).manifest.model_hash)
        assert all(model_hash in str(mismatch.value) for model_hash in held)
        for served in edge.models:
            told = await served.describer.describe(5.0)
            assert [profile.tier for profile in told.profiles] == [Tier.EDGE, Tier.CLOUD]
            assert told.model_hash == served.manifest.model_hash


async def test_two_that_cannot_be_told_apart_are_not_served(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="both 'tiny' version 1"):
        async with device([tiny, write_bundle(tmp_path / "tiny", 5)]):
            pytest.fail("was served")


async def test_statistics_agree_with_what_was_sent(several: Path, pixels: np.ndarray) -> None:
    async with device(several) as front, calling(front.address) as call:
        for count in (1, 3, 3):
            await call(f"{DOOR}/ModelInfer", asking(pixels[:count], model_name="net"))
        await refused(call, "ModelInfer", asking(pixels[:, :4], model_name="net"))
        await refused(call, "ModelInfer", asking(pixels, model_name="net", id="x" * 201))
        await call(f"{DOOR}/ModelInfer", asking(pixels[:2], model_name="other"))
        every = await call(f"{DOOR}/ModelStatistics", messages.ModelStatisticsRequest())
        (net,) = (
            await call(f"{DOOR}/ModelStatistics", messages.ModelStatisticsRequest(name="net", version="10"))
        ).model_stats
        of_net = await call(f"{DOOR}/ModelStatistics", messages.ModelStatisticsRequest(name="net"))
        code, _ = await refused(call, "ModelStatistics", messages.ModelStatisticsRequest(name="none"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert {(s.name, s.version): s.inference_count for s in every.model_stats} == {
        ("net", "9"): 0,
        ("net", "10"): 7,
        ("other", "1"): 2,
    }
    assert {s.version for s in of_net.model_stats} == {"9", "10"}
    stats = net.inference_stats
    assert (net.execution_count, stats.success.count, stats.fail.count) == (3, 3, 2)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in net.batch_stats] == [(1, 1), (3, 2)]
    parts = (stats.queue, stats.compute_input, stats.compute_infer, stats.compute_output)
    assert all(part.count == 3 for part in parts)
    assert 0 < sum(part.ns for part in parts) <= stats.success.ns + 10
    assert net.last_inference > 1_600_000_000_000


async def test_statistics_count_what_other_tiers_ask_too(tiny: Path, pixels: np.ndarray) -> None:
    request = asking(pixels)
    request.parameters["exit_threshold"].double_param = 1.5
    async with three_tiers(tiny) as tiers:
        async with calling(tiers.device.address) as call:
            await call(f"{DOOR}/ModelInfer", request)
        for tier in (tiers.device, tiers.edge, tiers.cloud):
            async with calling(tier.address) as call:
                (stats,) = (await call(f"{DOOR}/ModelStatistics", messages.ModelStatisticsRequest())).model_stats
            assert (stats.inference_count, stats.execution_count) == (len(pixels), 1)


async def test_a_request_for_no_model_in_particular_is_refused(several: Path, pixels: np.ndarray) -> None:
    async with device(several) as front, calling(front.address) as call:
        code, text = await refused(call, "ModelInfer", asking(pixels, model_name=""))
    assert (code, "'net', 'other'" in text) == (grpc.StatusCode.NOT_FOUND, True)


async def test_models_share_the_link_above(several: Path, pixels: np.ndarray) -> None:
    async with three_tiers(several) as tiers, calling(tiers.device.address) as call:
        links = {id(served.runtime.next_tier._uplink) for served in tiers.device.models}  # type: ignore[union-attr]
        assert len(links) == 1
        requests = [asking(pixels, model_name=name) for name in ("net", "other") * 4]
        replies = await asyncio.gather(*(call(f"{DOOR}/ModelInfer", request) for request in requests))
    assert [reply.model_name for reply in replies] == ["net", "other"] * 4


@pytest.mark.parametrize("module", ["device_agent", "edge_node", "cloud_node"])
def test_a_process_given_two_that_cannot_be_told_apart_ends_with_exit_code_1(
    tiny: Path, tmp_path: Path, module: str
) -> None:
    other = write_bundle(tmp_path / "other", 5)
    command = [sys.executable, "-m", module, "--listen", "127.0.0.1:0", "--bundle", str(tiny), "--bundle", str(other)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFRAMP_")}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "both 'tiny' version 1" in ended.stderr
