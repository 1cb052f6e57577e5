"""What Triton's statistics make of requests that ended, and which count as failed."""

from __future__ import annotations

from asyncio import CancelledError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services import bundle, process
from services.domain import Deadline, Tier
from services.open_inference.statistics import Statistics
from services.serving import Answering
from services.settings import TierSettings
from tests.finished import finished


async def test_requests_that_travelled_as_one_count_each_and_ran_once(tiny: Path) -> None:
    models = process.models(Tier.DEVICE, TierSettings(bundle=tiny, profile_seconds=0.0), None)
    statistics, alone = Statistics(models), finished(bundle.load(tiny).manifest)
    statistics.answered(alone)
    statistics.answered(alone._replace(members=("a", "b", "c")))
    (told,) = statistics.reply("tiny", "").model_stats
    stats = told.inference_stats
    assert (told.inference_count, told.execution_count) == (6, 2)
    assert {stats.success.count, stats.queue.count, stats.compute_infer.count} == {4}
    assert stats.compute_infer.ns == pytest.approx(4 * 3_000_000, rel=1e-6)
    assert [(each.batch_size, each.compute_infer.count) for each in told.batch_stats] == [(3, 2)]
    models.close()


@pytest.mark.parametrize(
    ("left", "error", "failed"), [(-0.1, CancelledError, 3), (1, CancelledError, 0), (1, KeyError, 3)]
)
def test_who_is_stopped_when_time_is_up_has_failed_and_who_leaves_has_not(
    left: float, error: type[BaseException], failed: int
) -> None:
    served: Any = SimpleNamespace(failed=0, failed_seconds=0.0)

    def end() -> None:
        with Answering(served, 3) as answering:
            answering.deadline = Deadline.after(left)
            raise error

    with pytest.raises(error):
        end()
    assert served.failed == failed
