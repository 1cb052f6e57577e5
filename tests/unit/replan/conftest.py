"""What tests of replanning start with."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_agent.planner import Options
from device_agent.replan import Replanner
from services import bundle
from services.bundle import Manifest
from services.domain import Tier
from services.fixed import fixed_plan
from tests.fakes import FakeClock
from tests.replans import Prepares, profile_of


@pytest.fixture
def manifest(tiny: Path) -> Manifest:
    return bundle.load(tiny).manifest


@pytest.fixture
def prepares() -> Prepares:
    return Prepares()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def replanner(manifest: Manifest, prepares: Prepares, clock: FakeClock) -> Replanner:
    """A device a hundred times slower than the edge."""
    fallback = fixed_plan(manifest, None, ("fp32", "fp32"))
    options = Options(codecs=(("fp32",), ("fp32",)), image_codecs=())
    found = Replanner(manifest, fallback, prepares, options, clock=clock)
    found.believe([profile_of(Tier.DEVICE, 0.1, manifest.last), profile_of(Tier.EDGE, 0.001, manifest.last)], [])
    return found
