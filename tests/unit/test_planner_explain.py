"""What `offramp explain` says of a plan."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from services.bundle import CodecAccuracy
from services.domain import CodecCost, Policy, Segment, SegmentTime, Tier
from services.errors import InvalidInput
from services.profile import Measured
from testbed.explain import Explanation, as_json, believed, explain, shown
from testbed.local import LinkAsked
from tests.problems import chain, machine

SHAPES = [(3, 224, 224), (16, 112, 112), (24, 56, 56), (40, 14, 14), (1000,)]
LINKS = [LinkAsked("50mbit", "10ms"), LinkAsked("200mbit", "40ms")]
LATENCY = Policy()
CODECS = ("fp32", "int8", "int8+zstd", "int4+bitmap", "pixels", "jpeg90")


def explained(policy: Policy = LATENCY) -> Explanation:
    entries = [CodecAccuracy(split_point=3, codec="int4+bitmap", delta=-0.001, bytes_per_sample=2400)]
    manifest = chain(SHAPES, {3: 0.4}, 0.9, entries)
    costs = tuple(CodecCost(name, 2e-9, 1e-9, 0.2) for name in CODECS)
    measured = Measured(machine(Tier.CLOUD, [0.02, 0.02, 0.02, 0.02]).segments, costs)
    return explain(believed(manifest, measured, LINKS, {Tier.DEVICE: 8.0, Tier.EDGE: 2.0}), policy)


def text(found: Explanation, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(shown(found))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_tables_fit_a_terminal_without_cutting_a_word(width: int) -> None:
    lines = text(explained(), width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    offloading = next(number for number, line in enumerate(lines) if "raw to cloud" in line)
    assert any("> fp32 0:4" in line for line in lines[offloading : offloading + 4])


def test_a_wide_terminal_has_each_plan_on_one_line() -> None:
    lines = [line for line in text(explained(), 120).splitlines() if "to cloud" in line]
    assert [line.count(" > ") for line in lines] == [2, 2, 2]


def test_the_chosen_plan_comes_first_then_five_more() -> None:
    found = as_json(explained())
    seconds = [each["seconds"] for each in (found["chosen"], *found["next"])]
    assert len(seconds) == 6
    assert seconds == sorted(seconds)
    assert json.loads(json.dumps(found)) == found
    for each in (found["chosen"], *found["next"]):
        assert sum(each["terms"].values()) == pytest.approx(each["seconds"])


def test_slower_machines_take_longer() -> None:
    local = as_json(explained())["baselines"]["all local"]
    assert local["seconds"] == pytest.approx(8 * (0.06 + 0.6 * 0.02))


def test_baselines_are_there_whatever_the_policy_forbids() -> None:
    found = as_json(explained(Policy(privacy=True)))
    assert set(found["baselines"]) == {"all local", "raw to cloud", "pixels to cloud", "jpeg90 to cloud"}
    assert all(found["baselines"].values())
    assert not found["chosen"]["plan"].startswith("device 0:0")


def test_what_was_not_measured_is_said() -> None:
    notes = " ".join(explained().notes)
    assert "joules are an estimate" in notes
    assert "bytes of pixels+webp at split point 0 are estimated, not measured" in notes
    assert "the time pixels+webp takes on the edge was not measured and counts as none" in notes


def test_split_points_that_there_was_no_time_to_measure_are_said() -> None:
    assert not any("not measured in time" in note for note in explained().notes)
    manifest = chain(SHAPES)
    whole = Measured((SegmentTime(Segment(0, manifest.last), 1, 0.1),))
    notes = explain(believed(manifest, whole, LINKS, {}), Policy()).notes
    assert f"{manifest.last - 1} of {manifest.last} split points were not measured in time" in " ".join(notes)


def test_a_policy_that_nothing_meets_and_one_link_are_refused() -> None:
    with pytest.raises(InvalidInput, match="lower --min-accuracy"):
        explained(Policy(min_accuracy=0.99))
    with pytest.raises(InvalidInput, match="give --links twice"):
        believed(chain(SHAPES), Measured(), LINKS[:1], {})


def test_a_deadline_that_no_plan_meets_is_said() -> None:
    assert not any("ms or less" in note for note in explained(Policy(deadline_seconds=10)).notes)
    assert explained(Policy(deadline_seconds=0.001)).notes[0].startswith("no plan is expected to take 1 ms or less")
