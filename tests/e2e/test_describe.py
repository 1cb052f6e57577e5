"""What a client learns of the tiers by asking the nearest: real servers, real gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services import bundle, measuring, process
from services.domain import Segment, Tier
from services.errors import DeadlineExceeded, UpstreamUnavailable
from services.profile import Measured
from services.settings import TierSettings
from services.uplink import Uplink
from tests.networks import write_bundle
from tests.tiers import Running, upper


@asynccontextmanager
async def asking(address: str) -> AsyncIterator[Uplink]:
    next_tier = Uplink(Tier.DEVICE, address)
    try:
        yield next_tier
    finally:
        await next_tier.close()


async def measured(running: Running, path: Path, **given: object) -> None:
    settings = TierSettings(**{"bundle": path, "profile_seconds": 5.0, "profile_cache": "-"} | given)
    await asyncio.to_thread(process.get_ready, running.runtime, bundle.load(path), settings)


async def test_a_client_of_the_edge_learns_what_the_cloud_measured(tiny: Path) -> None:
    async with upper(Tier.CLOUD, tiny) as cloud, upper(Tier.EDGE, tiny, cloud.address, holds=Segment(0, 6)) as edge:
        await measured(cloud, tiny)
        async with asking(edge.address) as next_tier:
            found = await next_tier.describe(5.0)
    assert [profile.tier for profile in found.profiles] == [Tier.EDGE, Tier.CLOUD]
    assert found.model_hash == bundle.load(tiny).manifest.model_hash
    assert [link.source for link in found.links] == [Tier.EDGE]
    assert [profile.holds for profile in found.profiles] == [Segment(0, 6), None]
    own, above = found.profiles
    assert (own.segments, own.codecs) == ((), ())
    assert {Segment(0, at) for at in range(1, 9)} <= {time.segment for time in above.segments}
    assert {Segment(at, 8) for at in range(8)} <= {time.segment for time in above.segments}
    assert above.codecs
    assert above == cloud.runtime.profiler.full_profile()


async def test_a_tier_whose_next_one_is_gone_or_holds_another_model_tells_of_itself(tiny: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", seed=1)
    async with (
        upper(Tier.CLOUD, other) as cloud,
        upper(Tier.EDGE, tiny, cloud.address) as edge,
        asking(edge.address) as next_tier,
    ):
        found = await next_tier.describe(5.0)
    assert [profile.tier for profile in found.profiles] == [Tier.EDGE]
    async with upper(Tier.EDGE, tiny, cloud.address) as edge, asking(edge.address) as next_tier:
        found = await next_tier.describe(5.0)
    assert [profile.tier for profile in found.profiles] == [Tier.EDGE]


async def test_nobody_there_is_an_error_that_says_so(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as edge:
        address = edge.address
    async with asking(address) as next_tier:
        with pytest.raises((UpstreamUnavailable, DeadlineExceeded)):
            await next_tier.describe(0.5)


async def test_tiers_on_one_machine_share_what_one_measured_and_scale_it(tiny: Path, tmp_path: Path) -> None:
    kept: dict[str, object] = {"profile_cache": str(tmp_path)}
    async with upper(Tier.CLOUD, tiny) as cloud, upper(Tier.EDGE, tiny) as edge:
        await measured(cloud, tiny, **kept)
        (file,) = tmp_path.iterdir()
        written = file.stat().st_mtime_ns
        await measured(edge, tiny, compute_slowdown=4.0, **kept)
        assert file.stat().st_mtime_ns == written
        times = [tier.runtime.profiler.full_profile().segments for tier in (cloud, edge)]
    assert [(t.segment, t.batch_size, t.seconds) for t in times[1]] == [
        (t.segment, t.batch_size, 4 * t.seconds) for t in times[0]
    ]


async def test_what_one_start_had_no_time_for_the_next_measures(tiny: Path, tmp_path: Path) -> None:
    kept: dict[str, object] = {"profile_cache": str(tmp_path)}
    async with upper(Tier.CLOUD, tiny) as cloud:
        await measured(cloud, tiny, profile_seconds=1e-6, **kept)
        assert cloud.runtime.profiler.full_profile().segments == ()
        await measured(cloud, tiny, **kept)
        assert not measuring.unknown(
            bundle.load(tiny).manifest, Measured(cloud.runtime.profiler.full_profile().segments)
        )


async def test_a_tier_that_is_not_to_measure_does_not(tiny: Path, tmp_path: Path) -> None:
    async with upper(Tier.CLOUD, tiny) as cloud:
        await measured(cloud, tiny, profile_seconds=0.0, profile_cache=str(tmp_path))
        assert cloud.runtime.profiler.full_profile().segments == ()
    assert not list(tmp_path.iterdir())


async def test_a_slowed_tier_takes_its_time(tiny: Path) -> None:
    whole = Segment(0, 2)

    def took(running: Running) -> float:
        model = running.runtime.model
        started = time.perf_counter()
        model.run(whole, model.zeros(0, 1))
        return time.perf_counter() - started

    async with upper(Tier.CLOUD, tiny) as cloud, upper(Tier.EDGE, tiny, compute_slowdown=500.0) as edge:
        for tier in (cloud, edge):
            tier.runtime.warm(whole)
        assert took(edge) > 50 * min(took(cloud) for _ in range(5))
