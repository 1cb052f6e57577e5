"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.networks import write_bundle
from tests.stalls import bystander, stalled

ROOT = Path(__file__).parent.parent

# Tensors of tests are tiny: torch's threads, here and in the commands that tests start, would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is; what hangs is ended by the time limit of its test.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What fails while the machine stands still is run again, and reported so; what fails otherwise has failed."""
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=2, condition=stalled))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    bystander.stalls.clear()


@pytest.fixture(scope="session", autouse=True)
def looking_on() -> Iterator[None]:
    with bystander.watching():
        yield


@pytest.fixture(scope="session", autouse=True)
def profile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a loaded test machine measures must not become what its user's tiers believe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OFFRAMP_PROFILE_CACHE", str(tmp_path_factory.mktemp("profiles")))
        patch.setenv("OFFRAMP_METRICS_LISTEN", "-")  # several tiers on one machine
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small three-exit network with real splits and a mix of exits."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def data() -> Path:
    """Real data sets that do not travel with the project; skips where they are absent, unless required."""
    path = Path(os.environ.get("TEST_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        assert not os.environ.get("TEST_REQUIRE_DATA"), f"no data sets at {path}"
        pytest.skip(f"no data sets at {path}; set TEST_DATA to a directory that has them")
    return path
