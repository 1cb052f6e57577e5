"""The simulation of the policies' bench against edge, cloud and links as processes, over a slow link."""

from __future__ import annotations

from pathlib import Path

from testbed.bench import conduct
from testbed.bench.policies import OURS
from testbed.bench.world import Loop, World

MARGIN = 0.15
SLOW = World(device_slowdown=1000.0)
"""So slow a device that the tiny network takes it longer than the machine's own unevenness."""


async def test_what_is_simulated_takes_as_long_as_what_runs(tiny: Path, tmp_path: Path) -> None:
    trace = tmp_path / "slow.csv"
    trace.write_text("t_s,mbps\n" + "".join(f"{second},{0.2 if second % 2 else 0.1}\n" for second in range(8)))
    names = (OURS, "cloud-raw", "cloud-jpeg")
    asked = conduct.Asked([trace], [tiny], None, None, [Loop.CLOSED], names, 4.0, 1, 0, tmp_path / "out", SLOW)
    found = await conduct.on_tiers(asked, lambda step: None)
    (simulated,), (foretold,) = found.virtual_ratios.values(), found.foretold_ratios.values()
    assert simulated.keys() == foretold.keys() == {f"{name} on slow" for name in names}
    assert all(abs(ratio - 1) <= MARGIN for ratio in simulated.values()), simulated
    over_the_link = {name: ratio for name, ratio in foretold.items() if name.startswith("cloud")}
    assert all(abs(ratio - 1) <= MARGIN for ratio in over_the_link.values()), over_the_link
