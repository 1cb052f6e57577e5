"""Who is told to stop while it measures stops measuring: at its start, and at a reload."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from services import measuring, process
from services.domain import Tier
from services.reloading import Reloading
from services.settings import TierSettings
from services.telemetry import Telemetry
from tests.networks import write_bundle

SECONDS = 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundles" / "1")
    return tmp_path / "bundles"


@pytest.fixture
def given(root: Path) -> TierSettings:
    """Settings of a tier that measures for very long."""
    cache = str(root.parent / "cache")
    return TierSettings(bundle=root, profile_seconds=600.0, profile_cache=cache, metrics_listen="-")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Set when measuring begins, which has much to do, and when it ends."""
    begun, ended = threading.Event(), threading.Event()
    timings = measuring.timings

    def watched(*given: Any) -> Any:
        begun.set()
        try:
            return timings(*given)
        finally:
            ended.set()

    monkeypatch.setattr(measuring, "timings", watched)
    monkeypatch.setattr(measuring, "_PASSES", 10_000)
    return begun, ended


async def test_before_it_serves(given: TierSettings, measured: tuple[threading.Event, threading.Event]) -> None:
    begun, _ = measured
    models, stop = process.models(Tier.CLOUD, given, None), asyncio.Event()
    warming = asyncio.create_task(process.warmed(models, given, stop))
    assert await asyncio.to_thread(begun.wait, SECONDS)
    stop.set()
    with pytest.raises(process.ToldToStop):
        await asyncio.wait_for(warming, SECONDS)
    models.close()


async def test_at_a_reload(root: Path, given: TierSettings, measured: tuple[threading.Event, threading.Event]) -> None:
    begun, ended = measured
    telemetry, models = Telemetry(Tier.CLOUD, given), process.models(Tier.CLOUD, given, None)
    telemetry.start(models, None)
    write_bundle(root / "2", 1, version="2")
    reload = asyncio.create_task(Reloading(models, given, None, telemetry).once())
    assert await asyncio.to_thread(begun.wait, SECONDS)
    reload.cancel()
    assert await asyncio.to_thread(ended.wait, SECONDS)
    assert models.versions("tiny") == ["1"]
    models.close()
    await telemetry.close()
