"""What the pictures of the policies' bench show."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from services.domain import Plan, Segment, Stage, Tier
from testbed.bench import figures
from testbed.bench.figures import Picture
from testbed.bench.statistics import Runs
from testbed.traces import ConstantRate

PLAN = Plan((Stage(Tier.DEVICE, Segment(0, 3)),))


def test_a_timeline_shows_one_turn_where_several_would_lie_over_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "_png", lambda figure: drawn.append(figure) or b"png")
    whole = Runs()
    for seconds in (0.1, 0.3):
        turn = Runs()
        for at in (2.0, 1.0):
            turn.add(at, seconds, PLAN)
        whole.take(turn)
    assert figures.timeline(ConstantRate(1e6), 0.0, 3.0, {"offramp": whole}, "t") == Picture("Timeline: t", b"png")
    latencies = drawn[0].axes[2].lines[0]
    assert list(latencies.get_xdata()) == [1.0, 2.0]
    assert list(latencies.get_ydata()) == [100.0, 100.0]


@pytest.mark.parametrize("name", [r"$\nothing$", "a_$x^$_{"])
def test_a_name_with_dollars_is_no_formula(name: str) -> None:
    runs = Runs()
    runs.add(1.0, 0.1, PLAN)
    assert figures.latencies({name: {"offramp": runs}}, name).png
    assert figures.standing({name: {"offramp": 1.2}}, name).png
    assert figures.timeline(ConstantRate(1e6), 0.0, 3.0, {"offramp": runs}, name).png
    assert figures.regimes([1e5, 1e6], [1, 8], [[PLAN, PLAN], [PLAN, None]], name).png
