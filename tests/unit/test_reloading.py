"""Reading bundles again: what is taken up, what is refused and why, one time after the other. No sockets."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services import bundle, bundles, log, memory, process
from services.batcher import Tally
from services.bundle import MEMORY_PER_BYTE
from services.domain import Segment, Tier
from services.errors import (
    BundleError,
    DeadlineExceeded,
    ModelMismatch,
    OfframpError,
    UnknownModel,
    UpstreamUnavailable,
)
from services.fixed import fixed_plan
from services.reloading import Join, Reloading, Warm, only_ready
from services.serving import Models, Served
from services.settings import TierSettings
from services.telemetry import Telemetry
from tests.conftest import ROOT
from tests.e2e.test_bad_bundle import flip, say
from tests.networks import write_bundle
from tests.scraping import of, total

SECONDS = 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundles" / "1")
    return tmp_path / "bundles"


@dataclass(slots=True)
class Reloaded:
    """A tier's models that can be reloaded; `said`: what it logged."""

    models: Models
    reloading: Reloading
    telemetry: Telemetry
    said: list[dict[str, Any]] = field(default_factory=list)

    def versions(self) -> list[str]:
        return self.models.versions("tiny")

    def counts(self) -> list[float]:
        page = of(self.telemetry.metrics.registry)
        outcomes = ("loaded", "unchanged", "refused")
        return [total(page, "offramp_bundle_reloads_total", tier="cloud", outcome=each) for each in outcomes]

    async def refused(self) -> str:
        """The reason for which the next reload is refused; asserts that nothing else has changed."""
        before = list(self.models), self.models.limiter.max_in_flight
        assert await self.reloading.once() == "refused"
        assert (list(self.models), self.models.limiter.max_in_flight) == before
        return str(self.said[-1]["reason"])


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "event", lambda name, *level, **fields: lines.append({"event": name, **fields}))
    return lines


Start = Callable[..., Any]


@pytest.fixture
def start(root: Path, said: list[dict[str, Any]]) -> Start:
    """Starts a cloud's models of `root`, without anything that listens."""

    @asynccontextmanager
    async def started(join: Join = only_ready, **settings: Any) -> AsyncIterator[Reloaded]:
        given = TierSettings(**{"bundle": root, "profile_seconds": 0.0, "metrics_listen": "-"} | settings)
        telemetry = Telemetry(Tier.CLOUD, given)
        models = process.models(Tier.CLOUD, given, None)
        telemetry.start(models, None)
        process.warm(models, given)
        try:
            yield Reloaded(models, Reloading(models, given, None, telemetry, join), telemetry, said)
        finally:
            models.close()
            await telemetry.close()

    return started


async def test_what_is_new_is_ready_before_it_is_served(root: Path, start: Start) -> None:
    async def join(new: Sequence[Served], warm: Warm) -> None:
        assert tier.versions() == ["1"]
        await warm()
        assert all(each.limiter.warm and each.runtime.model.resident(Segment(0, 8)) for each in new)

    async with start(join, max_in_flight=7) as tier:
        write_bundle(root / "2", 1, version="2")
        assert await tier.reloading.once() == "loaded"
        assert tier.versions() == ["1", "2"]
        assert tier.models.named("tiny") is tier.models.by_hash(bundle.load(root / "2").manifest.model_hash)
        assert (tier.models.limiter.max_in_flight, tier.models.named("tiny").limiter.ready) == (14, True)
        assert (await tier.reloading.once(), tier.counts()) == ("unchanged", [1, 1, 0])


async def test_nothing_that_takes_long_is_done_where_requests_are_served(
    root: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as tier:
        here: dict[str, bool] = {}

        def noting(work: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*given: Any, **more: Any) -> Any:
                here[work.__name__] = threading.current_thread() is threading.main_thread()
                return work(*given, **more)

            return noted

        for work in (process.found, process.further, process.warm):
            monkeypatch.setattr(process, work.__name__, noting(work))
        write_bundle(root / "2", 1, version="2")
        assert await tier.reloading.once() == "loaded"
    assert here == {"found": False, "further": False, "warm": False}


async def test_versions_of_a_model_share_its_series(root: Path, start: Start) -> None:
    async with start() as tier:
        write_bundle(root / "2", 1, version="2")
        await tier.reloading.once()
        for served, runs in zip(tier.models, (3, 4), strict=True):
            served.runtime.batcher.tallies[Segment(0, 2)] = Tally(1, runs)
        assert total(of(tier.telemetry.metrics.registry), "offramp_batched_runs_total", model="tiny") == 7


async def test_a_further_model_shares_what_the_others_share(root: Path, start: Start) -> None:
    async with start() as tier:
        write_bundle(root / "2", 1, version="2")
        await tier.reloading.once()
        one, two = tier.models
        assert one.runtime.backlog is two.runtime.backlog
        assert one.runtime.batcher.workers is two.runtime.batcher.workers
        assert one.limiter.whole is two.limiter.whole is tier.models.limiter


async def test_of_several_all_are_served_or_none(root: Path, start: Start) -> None:
    async with start() as tier:
        write_bundle(root / "2", 1, version="2")
        write_bundle(root / "3", 2, version="3")
        flip(root / "3")
        assert "3/model.onnx: SHA-256 is" in await tier.refused()
        with pytest.raises(UnknownModel):
            tier.models.named("tiny", "2")
        assert tier.counts() == [0, 0, 1]


async def test_what_was_tampered_with_since_it_was_loaded_is_refused_and_served_on(root: Path, start: Start) -> None:
    async with start() as tier:
        flip(root / "1")
        assert "1/model.onnx: SHA-256 is" in await tier.refused()


async def test_another_graph_in_the_same_place_needs_another_version(root: Path, start: Start) -> None:
    async with start() as tier:
        write_bundle(root / "1", 1)
        assert "now another graph" in await tier.refused()
        write_bundle(root / "1", 1, version="2")
        assert await tier.reloading.once() == "loaded"
        assert tier.said[-1]["served_but_gone"].keys() == {"tiny:1"}
        assert tier.versions() == ["1", "2"]


async def test_another_manifest_of_the_graph_that_is_served_waits_for_a_restart(root: Path, start: Start) -> None:
    async with start() as tier:
        say(root / "1", lambda m: m["exits"][0].update(threshold=0.9))
        assert "1/manifest.json: changed, though its graph did not" in await tier.refused()


async def test_a_copy_of_what_is_served_is_told_apart_by_neither_name(root: Path, start: Start) -> None:
    async with start() as tier:
        write_bundle(root / "other", name="other")
        assert "the same graph" in await tier.refused()


async def test_what_is_loaded_counts_for_the_memory_and_only_once(
    root: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = MEMORY_PER_BYTE * (root / "1" / "model.onnx").stat().st_size
    monkeypatch.setattr(memory, "limit_bytes", lambda: one + one // 2)
    async with start() as tier:
        assert await tier.reloading.once() == "unchanged"
        write_bundle(root / "2", 1, version="2")
        assert "2/model.onnx: this graph takes" in await tier.refused()
        shutil.rmtree(root / "1")  # which frees nothing: it is served
        assert "2/model.onnx: this graph takes" in await tier.refused()


async def test_settings_that_do_not_fit_a_new_model_name_it(root: Path, start: Start) -> None:
    shutil.rmtree(root / "1")
    shutil.copytree(ROOT / "models" / "digits", root / "digits")
    async with start(holds="10:20") as tier:
        write_bundle(root / "1")
        assert (await tier.refused()).startswith(f"{root / '1'}: holds: 10:20 ends after the last split point")


async def test_where_making_it_ready_fails_nothing_changes(
    root: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as tier:
        write_bundle(root / "2", 1, version="2")
        with monkeypatch.context() as patch:
            patch.setattr(process, "get_ready", _out_of_memory)
            assert "MemoryError" in await tier.refused()
        assert await tier.reloading.once() == "loaded"


def _out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError("no more")


async def test_what_a_busy_machine_measures_is_not_kept_for_the_next_start(
    root: Path, start: Start, tmp_path: Path
) -> None:
    cache = tmp_path / "profiles"
    async with start(profile_seconds=0.05, profile_cache=str(cache)) as tier:
        kept = len(list(cache.iterdir()))
        write_bundle(root / "2", 1, version="2")
        assert await tier.reloading.once() == "loaded"
        assert tier.models.named("tiny").runtime.profiler.full_profile().segments
        assert len(list(cache.iterdir())) == kept


@dataclass(slots=True)
class Slow:
    """Joins once it may; how many do at the same time."""

    may: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    now: int = 0
    most: int = 0
    times: int = 0

    async def __call__(self, new: Sequence[Served], warm: Warm) -> None:
        self.now += 1
        self.times += 1
        self.most = max(self.most, self.now)
        self.begun.set()
        await self.may.wait()
        await warm()
        self.now -= 1


async def under_way(
    tier: Reloaded, slow: Slow, root: Path, stop: asyncio.Event, told: asyncio.Event
) -> asyncio.Task[None]:
    """What reloads until `stop`, in the middle of taking up version 2."""
    write_bundle(root / "2", 1, version="2")
    told.set()
    running = asyncio.create_task(tier.reloading.until(stop, told))
    await slow.begun.wait()
    return running


async def test_a_signal_during_a_reload_makes_one_more_after_it(root: Path, start: Start) -> None:
    slow, told, stop = Slow(), asyncio.Event(), asyncio.Event()
    async with start(slow) as tier, asyncio.timeout(SECONDS):
        running = await under_way(tier, slow, root, stop, told)
        write_bundle(root / "3", 2, version="3")
        for _ in range(5):
            told.set()
            await asyncio.sleep(0)
        assert slow.times == 1
        slow.may.set()
        while len(tier.said) < 2:
            await asyncio.sleep(0.001)
        stop.set()
        await running
        assert (tier.versions(), slow.most, slow.times) == (["1", "2", "3"], 1, 2)
        assert tier.counts() == [2, 0, 0]


async def test_who_is_stopped_gives_up_what_is_under_way(root: Path, start: Start) -> None:
    slow, told, stop = Slow(), asyncio.Event(), asyncio.Event()
    async with start(slow) as tier, asyncio.timeout(SECONDS):
        running = await under_way(tier, slow, root, stop, told)
        stop.set()
        await running
        told.set()
        await asyncio.sleep(0)
        assert (tier.versions(), tier.counts(), tier.said) == (["1"], [0, 0, 0], [])


@dataclass(frozen=True, slots=True)
class Above:
    """A tier above that says this when it is asked about a model."""

    says: OfframpError | None

    async def agree(self, timeout_seconds: float, model_hash: str) -> None:
        if self.says is not None:
            raise self.says


@pytest.fixture
def edge(tiny: Path) -> Iterator[Served]:
    models = process.models(Tier.EDGE, TierSettings(bundle=tiny), None)
    yield models.first
    models.close()


@pytest.mark.parametrize("says", [None, UpstreamUnavailable("gone"), DeadlineExceeded("silent")])
async def test_who_serves_it_above_or_cannot_be_asked_is_no_reason_to_refuse(
    edge: Served, says: OfframpError | None
) -> None:
    edge.runtime.next_tier = Above(says)  # type: ignore[assignment]
    await process.check_above(edge, fixed_plan(edge.manifest, (2, 4), ("fp32", "fp32")))


async def test_a_plan_that_goes_on_above_needs_somebody_there_who_serves_it(edge: Served) -> None:
    edge.runtime.next_tier = Above(ModelMismatch("this cloud holds another"))  # type: ignore[assignment]
    await process.check_above(edge, fixed_plan(edge.manifest, (2, 8), ("fp32", "fp32")))
    with pytest.raises(BundleError, match="the tier above must load it first; this cloud holds another"):
        await process.check_above(edge, fixed_plan(edge.manifest, (2, 4), ("fp32", "fp32")))


def test_bundles_that_are_held_are_returned_as_they_are_and_told_apart_from_new_ones(tmp_path: Path) -> None:
    one = write_bundle(tmp_path / "all" / "1")
    held = bundles.load([tmp_path / "all"])
    write_bundle(tmp_path / "all" / "2", 1, version="2")
    still, new = bundles.load([tmp_path / "all"], held=held)
    assert (still is held[0], new.manifest.version) == (True, "2")
    shutil.rmtree(one)
    (only,) = bundles.load([tmp_path / "all"], held=held)
    assert only.manifest.version == "2"
    write_bundle(tmp_path / "all" / "3", 4)
    with pytest.raises(BundleError, match="both 'tiny' version 1"):
        bundles.load([tmp_path / "all"], held=held)
