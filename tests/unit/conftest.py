"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import bundle
from services.model import Model
from tests.fakes import FakeClock


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return Model(bundle.load(tiny))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
