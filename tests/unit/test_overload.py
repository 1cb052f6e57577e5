"""What the overload benchmark calls a miss."""

from __future__ import annotations

import pytest

from benchmarks.overload import TARGETS, missed

MET = {"goodput at 3x / peak": 0.95, "late / accepted": 0.0, "memory, last / first": 1.01, "health, share": 1.0}


@pytest.mark.parametrize(
    "worse",
    [
        {"goodput at 3x / peak": 0.89},
        {"late / accepted": 0.02},
        {"memory, last / first": 1.2},
        {"health, share": 0.99},
    ],
    ids=str,
)
def test_each_target_can_be_missed(worse: dict[str, float]) -> None:
    assert MET.keys() == TARGETS.keys()
    assert missed(MET) == []
    assert missed(MET | worse) == list(worse)
