"""The fixed plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import bundle
from services.bundle import Manifest
from services.domain import Tier
from services.errors import SettingsError
from services.fixed import default_splits, fixed_plan

CODECS = ("int8+zstd", "fp16")


@pytest.fixture
def manifest(tiny: Path) -> Manifest:
    return bundle.load(tiny).manifest


def test_without_splits_the_plan_cuts_after_the_exits(manifest: Manifest) -> None:
    assert str(fixed_plan(manifest, None, CODECS)) == "device 0:2 > edge 2:4 int8+zstd > cloud 4:8 fp16"


def test_with_fewer_exits_the_compressive_bottlenecks_are_cut(manifest: Manifest) -> None:
    one = manifest.model_copy(update={"exits": manifest.exits[-1:]})
    two = manifest.model_copy(update={"exits": manifest.exits[1:]})
    assert [p.index for p in manifest.split_points if p.compressive] == [7]
    assert default_splits(one) == (7, 8)
    assert default_splits(two) == (4, 7)


@pytest.mark.parametrize("splits", [(0, 0), (0, 8), (8, 8), (3, 3), (1, 7)])
def test_given_splits_are_taken(manifest: Manifest, splits: tuple[int, int]) -> None:
    plan = fixed_plan(manifest, splits, CODECS)
    assert [stage.tier for stage in plan.stages] == list(Tier)
    assert [(s.segment.start, s.segment.end) for s in plan.stages] == [
        (0, splits[0]),
        splits,
        (splits[1], manifest.last),
    ]


@pytest.mark.parametrize("splits", [(-1, 2), (3, 2), (2, 9), (9, 9)])
def test_splits_that_do_not_fit_the_network_are_refused(manifest: Manifest, splits: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=r"must be rising and within 0\.\.8"):
        fixed_plan(manifest, splits, CODECS)
