from __future__ import annotations

import asyncio
import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from services import bundle, codec, hardware
from services.domain import FloatArray, Segment
from services.errors import InvalidInput, OfframpError
from services.model import Model, SegmentOutput
from testbed import scenes
from testbed.bench import cells, conduct, costs, workloads
from testbed.bench.calibration import Calibration
from testbed.bench.compare import Bench, Outcome, Trial
from testbed.bench.policies import BEST_STATIC, NAMES, OURS
from testbed.bench.results import Target
from testbed.bench.workloads import Workload
from testbed.bench.world import Loop, World
from testbed.commands import bench as command
from testbed.traces import ConstantRate

_TRACE = "t_s,mbps\n0,0.5\n1,4\n2,0.1\n3,0\n4,2\n"


@pytest.fixture
def asked(tiny: Path, tmp_path: Path) -> conduct.Asked:
    trace = tmp_path / "bumpy.csv"
    trace.write_text(_TRACE)
    loops = (Loop.CLOSED, Loop.OPEN)
    return conduct.Asked([trace], [tiny], None, None, loops, NAMES, 2.0, 1, 0, tmp_path / "out", World())


def test_a_comparison_is_written_as_json_csv_and_one_page_that_needs_nothing_else(asked: conduct.Asked) -> None:
    steps: list[str] = []
    found = conduct.on_paper(asked, steps.append)
    conduct.write(found, asked, asked.out / "all.json")
    told = json.loads((asked.out / "all.json").read_text())
    assert set(told["traces"]) == set(told["oracle_ratio"]) == set(told["best_static_ratio"]) == {"bumpy"}
    assert set(told["traces"]["bumpy"]) == set(NAMES)
    wanted = {"mean_ms", "p50_ms", "p95_ms", "p99_ms", "missed", "bytes", "accuracy", "switches"}
    assert wanted <= set(told["traces"]["bumpy"]["offramp"])
    rows = list(csv.DictReader((asked.out / "policies.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(NAMES) == len(steps)
    intervals = {column: [row[f"{column}_{end}"] for row in rows for end in ("low", "high")] for column in wanted}
    assert all(all(ends) for ends in intervals.values())
    page = (asked.out / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "://" not in page
    assert "<script" not in page
    assert all(word in page for word in ("Targets", "bumpy", "simulated"))
    drawn = {file.stem.rsplit("-", 3)[-3] for file in asked.out.glob("*-simulated.png")}
    assert drawn == {"closed", "open"}


@pytest.mark.parametrize(
    ("met", "options", "code"), [(False, [], 0), (False, ["--strict"], 1), (None, ["--strict"], 0)]
)
def test_who_asks_strictly_learns_of_a_missed_target_from_the_exit_code(
    met: bool | None, options: list[str], code: int, asked: conduct.Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conduct, "targets", lambda *_: [Target("fast", "here", "no", met)])
    given = ["--trace", str(asked.traces[0]), "--bundle", str(asked.bundles[0]), "--policies", "device"]
    where = ["--virtual", "--seconds", "2", "--out", str(asked.out)]
    assert CliRunner().invoke(command.app, [*given, *where, *options]).exit_code == code


def test_without_the_network_with_exits_no_other_is_measured_in_its_place(
    asked: conduct.Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OfframpError, match="models/cifar10"):
        conduct.prepared(replace(asked, bundles=()), lambda *_: None)


def test_every_policy_is_named_where_some_may_be_chosen() -> None:
    assert command._POLICIES.rstrip(".").split(". ")[1].split(", ") == list(NAMES)


def test_policies_simulated_in_processes_of_their_own_come_to_the_same(
    asked: conduct.Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = replace(asked, loops=(Loop.OPEN,), policies=(BEST_STATIC, OURS))
    alone = conduct.on_paper(some, lambda step: None).comparisons[0]
    monkeypatch.setattr(cells, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(hardware, "cores", lambda: 2.0)
    steps: list[str] = []
    beside = conduct.on_paper(some, steps.append).comparisons[0]
    assert beside == alone
    assert sorted(steps) == [BEST_STATIC, OURS]


def test_an_interrupt_ends_the_processes_that_simulate(asked: conduct.Asked) -> None:
    conduct.on_paper(replace(asked, policies=("device",)), lambda step: None)  # which measures
    build = partial(conduct.built, asked.bundles[0], asked)
    short, long = (Trial("t", ConstantRate(1e6), seconds, Loop.CLOSED, 0) for seconds in (0.5, 20_000.0))

    def interrupted(step: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # after the short one; the long one would take minutes
        cells.outcomes(build, [short, long], ["device"], interrupted, 2)
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_while_it_simulates_is_told_in_one_sentence() -> None:
    trial = Trial("t", ConstantRate(1e6), 1.0, Loop.OPEN, 0)
    with pytest.raises(OfframpError, match="enough memory"):
        cells.outcomes(_dies, [trial], ["device"], lambda step: None, 1)


def _dies() -> Bench:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def test_a_process_that_simulates_ends_with_the_one_that_asked() -> None:
    code = "from tests.unit.test_bench_report import _begins_and_dies as f; f()"
    asked = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    told, _ = await asyncio.wait_for(asked.communicate(), 60)  # which is at an end once nobody holds its output
    assert told.split() == [b"begun"]


def _begins_and_dies() -> None:
    """Starts a process that would sleep for long, and is gone before it has ended."""
    spawned = multiprocessing.get_context("spawn")
    begun = spawned.Event()
    spawned.Process(target=_sleeps, args=(begun,)).start()
    begun.wait(50)
    print("begun", flush=True)
    os._exit(0)


def _sleeps(begun: Any) -> None:
    cells.begin(_no_bench)
    begun.set()
    time.sleep(300)


def _no_bench() -> Bench:
    return cast(Bench, None)


def _names(page: Path) -> list[str]:
    """What the pictures of a page say that they show."""
    return re.findall(r'<img alt="([^"]*)"', page.read_text())


def test_every_picture_of_the_page_says_what_it_shows(asked: conduct.Asked) -> None:
    some = replace(asked, loops=(Loop.CLOSED,), policies=("offramp", "oracle"))
    conduct.write(conduct.on_paper(some, lambda step: None), some, None)
    assert _names(some.out / "report.html") == [
        "Standing over the oracle: tiny, closed loop, simulated",
        "Latency distributions: tiny, closed loop, simulated",
        "Timeline: tiny, closed loop, simulated: bumpy",
        "Regime map: tiny: the best plan",
    ]


async def test_the_page_of_running_tiers_has_all_pictures_too(
    asked: conduct.Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def running(*_: object) -> AsyncIterator[None]:
        yield

    async def calibrated(*_: object) -> Calibration:
        return Calibration(0.001, 0.0003)

    async def as_expected(*given: Any) -> Outcome:
        return cast(Outcome, given[4])

    monkeypatch.setattr(conduct.live, "running", running)
    monkeypatch.setattr(conduct.calibration, "calibrate", calibrated)
    monkeypatch.setattr(conduct.live, "compare", as_expected)
    some = replace(asked, loops=(Loop.CLOSED,), policies=("offramp", "oracle"))
    found = await conduct.on_tiers(some, lambda step: None)
    conduct.write(found, some, some.out / "all.json")
    told = json.loads((some.out / "all.json").read_text())
    (foretold,), (simulated,) = (told[f"{what}_over_real"].values() for what in ("foretold", "simulated"))
    assert foretold == {"offramp on bumpy": 1.0, "oracle on bumpy": 1.0}  # what ran was what was expected
    assert foretold.keys() == simulated.keys()
    names = _names(some.out / "report.html")
    for kind in ("Latency distributions", "Timeline"):
        for where in ("running tiers", "simulated"):
            assert sum(name.startswith(f"{kind}: tiny, closed loop, {where}") for name in names) == 1
    assert names[-1] == "Regime map: tiny: the best plan"


@pytest.mark.parametrize("real", [True, False])
async def test_a_workload_that_nobody_would_ask_for_is_refused_before_another_one_runs(
    real: bool, asked: conduct.Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def began(*_: object) -> None:
        pytest.fail("something ran")

    steps = list[str]()
    monkeypatch.setattr(conduct.live, "running", began)
    monkeypatch.setattr(conduct.study, "simulated", began)
    shutil.copytree(asked.bundles[0], tmp_path / "seldom")
    seldom = replace(asked, bundles=(*asked.bundles, tmp_path / "seldom"), loops=(Loop.OPEN,))
    ready = conduct.ready

    def slow(workload: Workload, asked: conduct.Asked, world: World) -> Bench:
        return replace(ready(workload, asked, world), asked_per_second=1e-6 if workload.name == "seldom" else None)

    monkeypatch.setattr(conduct, "ready", slow)
    monkeypatch.setattr(conduct, "_workload", lambda path, _: workloads.labelled(path.name, path, None, 8))

    async def compared() -> conduct.Found:
        return await conduct.on_tiers(seldom, steps.append) if real else conduct.on_paper(seldom, steps.append)

    with pytest.raises(InvalidInput, match="give more --seconds"):
        await compared()


def test_without_the_oracle_there_is_nothing_to_stand_against_and_no_picture(asked: conduct.Asked) -> None:
    some = replace(asked, policies=("offramp", "device"))
    conduct.write(conduct.on_paper(some, lambda step: None), some, None)
    assert not list(asked.out.glob("*.png"))


def test_pictures_without_photos_are_seeded_and_smooth() -> None:
    first, again = (workloads.smooth((32, 48, 3), seed=5) for _ in range(2))
    assert first.shape[1:] == (32, 48, 3)
    assert np.array_equal(first, again)
    across = np.abs(np.diff(first.astype(float), axis=2)).mean()
    assert 1 < across < 0.5 * first.astype(float).std()


def test_photos_become_squares_of_the_networks_size(tmp_path: Path) -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 60:] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    left, right = workloads.crops(tmp_path / "wide.png", (16, 16))
    assert left.shape == right.shape == (16, 16, 3)
    assert left.mean() < 1
    assert right.mean() > 254


def test_a_folder_without_photos_is_refused_and_not_replaced(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "image_shape", lambda spec: (8, 8, 3))
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(InvalidInput, match="no images here"):
        workloads.unlabelled("tiny", tiny, tmp_path)


@pytest.mark.parametrize("suffix", scenes._SUFFIXES)
def test_photos_of_the_formats_that_partition_takes_are_taken(
    suffix: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "image_shape", lambda spec: (8, 8, 3))
    Image.new("RGB", (40, 30)).save(tmp_path / f"photo{suffix}")
    assert workloads.unlabelled("tiny", tiny, tmp_path).images.shape == (2, 8, 8, 3)


def test_only_so_many_photos_of_a_folder_are_taken_the_first_ones(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "image_shape", lambda spec: (8, 8, 3))
    for index in range(workloads._MOST):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index:03}.png")
    (tmp_path / "999.png").write_bytes(b"not looked at")
    found = workloads.unlabelled("tiny", tiny, tmp_path).images
    assert found[::2, 0, 0, 0].tolist() == list(range(workloads._MOST))


def test_a_photo_that_is_none_or_far_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bad := tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGB", (40, 30)).save(bomb := tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for file in (bad, bomb):
        with pytest.raises(InvalidInput, match=rf"{file.name}: not an image"):
            workloads.crops(file, (8, 8))


def test_costs_measured_on_other_inputs_are_kept_apart(tiny: Path) -> None:
    loaded = bundle.load(tiny)
    dark, bright = (np.full((2, 1, 8, 8), value, np.float32) for value in (0, 1))
    assert costs.file_name(loaded, dark) == costs.file_name(loaded, dark.copy())
    assert costs.file_name(loaded, dark) != costs.file_name(loaded, bright)


def test_sizes_are_of_all_inputs_however_few_are_timed(tiny: Path, tmp_path: Path) -> None:
    inputs, names = np.zeros((9, 1, 8, 8), np.float32), (("int8+zstd",), ("int8+zstd",))
    inputs[5:] = np.random.default_rng(0).standard_normal((4, 1, 8, 8))
    loaded = bundle.load(tiny)
    found = costs.of(loaded, Model(loaded), inputs, names, tmp_path / "kept.json").at(0, "int8+zstd")
    each = codec.get("int8+zstd")
    assert found.bytes == pytest.approx(np.mean([each.encode(row[None]).nbytes for row in inputs]))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"segments": []}', '{"segments": 3, "codecs": [], "profiled": []}'])
def test_a_damaged_measurement_counts_as_none(tiny: Path, tmp_path: Path, damage: str) -> None:
    loaded, kept, names = bundle.load(tiny), tmp_path / "kept.json", (("fp32",), ("fp32",))
    model, inputs = Model(loaded), np.zeros((2, 1, 8, 8), np.float32)
    kept.write_text(damage)
    found = costs.of(loaded, model, inputs, names, kept)
    assert costs.of(loaded, model, inputs, names, kept) == found
    assert [file.name for file in tmp_path.iterdir()] == ["kept.json"]


def test_bytes_measured_now_take_the_place_of_older_ones_and_nothing_else(tiny: Path) -> None:
    old = (
        bundle.CodecAccuracy(split_point=1, codec="int8", delta=-0.01, bytes_per_sample=7.0),
        bundle.CodecAccuracy(split_point=2, codec="int4", delta=-0.02, bytes_per_sample=8.0),
    )
    manifest = bundle.load(tiny).manifest.model_copy(update={"codec_accuracy": old})
    measured = costs.Costs((), (costs.CodecAt(1, "int8", 0.0, 0.0, 9.0), costs.CodecAt(3, "fp16", 0.0, 0.0, 5.0)), ())
    found = {
        (e.split_point, e.codec): (e.delta, e.bytes_per_sample) for e in measured.bytes_known(manifest).codec_accuracy
    }
    assert found == {(1, "int8"): (-0.01, 9.0), (2, "int4"): (-0.02, 8.0), (3, "fp16"): (None, 5.0)}


def test_a_network_that_takes_one_sample_at_a_time_is_never_given_more(
    asked: conduct.Asked, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny, tmp_path / "single")
    manifest = bundle.read_manifest(tiny)
    bundle.write(
        tmp_path / "single", manifest.model_copy(update={"input": manifest.input.model_copy(update={"max_batch": 1})})
    )
    run, given = Model.run, set[int]()

    def noted(model: Model, piece: Segment, tensor: FloatArray) -> SegmentOutput:
        given.add(len(tensor))
        return run(model, piece, tensor)

    monkeypatch.setattr(Model, "run", noted)
    conduct.on_paper(replace(asked, bundles=[tmp_path / "single"]), lambda step: None)
    assert given == {1}


def test_bundles_of_one_name_are_refused_as_the_report_could_not_tell_them_apart(
    asked: conduct.Asked, tiny: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny, tmp_path / "again")
    with pytest.raises(InvalidInput, match="names of their own"):
        conduct.on_paper(replace(asked, bundles=[tiny, tmp_path / "again"]), lambda step: None)


@pytest.mark.parametrize("text", ["offramp,perfect", "nobody"])
def test_a_policy_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="known: offramp, device"):
        command._names(text)


def test_a_folder_of_traces_stands_for_its_files(tmp_path: Path) -> None:
    texts = {
        "b.csv": _TRACE,
        "c.up": "0\n3\n",
        "a.csv": _TRACE,
        "index.csv": "name,kind\n",
        "README.txt": "Traces of\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert [file.name for file in command._files([tmp_path])] == ["a.csv", "b.csv", "c.up"]
    with pytest.raises(InvalidInput, match="--trace"):
        command._files([tmp_path / "nothing.csv"])


def test_a_folder_without_traces_says_which_of_its_folders_may_have_some(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "index.csv").write_text("name,kind\n")
    with pytest.raises(InvalidInput, match=r"no file there is a link trace; try .*csv"):
        command._files([tmp_path])


async def test_every_turn_has_requests_before_any_tier_is_started(
    asked: conduct.Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = list[int]()

    def arrivals(trial: Trial, per_second: float) -> list[float]:
        drawn.append(trial.seed)
        if trial.seed == 2:
            raise InvalidInput("no request comes")
        return [0.0]

    monkeypatch.setattr(Trial, "arrivals", arrivals)
    monkeypatch.setattr(conduct.live, "running", lambda *_: pytest.fail("tiers were started"))
    with pytest.raises(InvalidInput):
        await conduct.on_tiers(replace(asked, rounds=3), lambda step: None)
    assert drawn == [0, 1, 2]
