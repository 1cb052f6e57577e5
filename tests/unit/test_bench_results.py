"""What the report says of a target that cannot be judged, or not in full."""

from __future__ import annotations

import pytest

from testbed.bench.policies import BEST_STATIC, ORACLE, OURS
from testbed.bench.results import Comparison, targets
from testbed.bench.routes import plan_of
from testbed.bench.statistics import Runs, Summary, summarise
from testbed.bench.world import Loop


def _took(seconds: float) -> Summary:
    runs = Runs()
    runs.add(0.0, seconds, plan_of(3, 3))
    return summarise(runs, 1.0, with_truth=False, seed=0)


@pytest.mark.parametrize(
    ("crosses", "policies", "said", "met"),
    [
        (False, {OURS: 0.5, BEST_STATIC: 1.0, ORACLE: 0.4}, "no trace crosses one", None),
        (True, {OURS: 0.5, ORACLE: 0.4}, "not run", None),
        (True, {OURS: 0.5, BEST_STATIC: 1.0}, "50.0% over 1 of 1 traces", True),
        (True, {OURS: 0.9, BEST_STATIC: 1.0, ORACLE: 0.75}, "10.0% over 1 of 1 traces (the oracle: 25.0%)", False),
    ],
)
def test_the_gain_over_hindsight_is_told_as_far_as_it_was_measured(
    crosses: bool, policies: dict[str, float], said: str, met: bool | None
) -> None:
    summaries = {name: _took(seconds) for name, seconds in policies.items()}
    each = Comparison("net", Loop.OPEN, False, 1000.0, {"t": summaries}, {"t": crosses})
    gain = targets([each], {})[2]
    assert (gain.found, gain.met) == (said, met)
