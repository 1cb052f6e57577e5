"""From what was asked to the files: prepares the workloads, compares, draws and writes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from device_agent.costs import Options
from device_agent.switching import SwitchRule
from services import bundle, hardware
from services.errors import InvalidInput
from testbed import adopt
from testbed.bench import calibration, figures, live, report, study, workloads
from testbed.bench.compare import Bench, Maker, Outcome, Trial, bench, maker, run, simulate
from testbed.bench.figures import Picture
from testbed.bench.policies import BEST_STATIC, Static
from testbed.bench.results import Comparison, Target, targets
from testbed.bench.speeds import Speeds
from testbed.bench.statistics import Runs
from testbed.bench.workloads import Workload
from testbed.bench.world import Loop, World

WITH_EXITS = Path("models/cifar10")
NO_EXITS = "efficientnet-b0"
SAMPLES = 256

HOW = (
    "Every policy meets the same trace from its beginning, and from four seconds later on the same samples in the same "
    "order and, in the open loop, at the same times. The uplink from device to edge follows the trace; everything else "
    "of the links stands still.",
    "closed: one request after the other, so that the mean is per request and quick answers weigh more. open: Poisson "
    "arrivals at half of what the device could answer alone, so that every second of the trace weighs the same.",
    "offramp: the live loop, with its estimates, probes and switches; when the trace begins it knows the machines, not "
    "the links, and has four seconds to probe them and to prepare its first plan before the first request. On running "
    "tiers nothing is prepared for it, but what was run in an earlier turn is still there, and sizes of images that "
    "were learnt in one; what others run is prepared before the trace begins. "
    "device, cloud-raw, cloud-jpeg: always the same. best-static: one plan for the whole trace, known afterwards: of "
    "all plans, the four that promise the least mean on this very trace, the one that promises the least at each cut "
    "of the device, and those that are always the same, are simulated, and the best of these is taken. On running "
    "tiers that same plan runs; the others are not tried there. A plan that is always the same promises nothing, so "
    "that the device waits for it three times as long as nearly all of its answers took before, and at least half a "
    "second, before it finishes by itself; "
    "for plans of offramp and of the oracles it waits twice what they promise, and at least a tenth. "
    "exits-fixed: the exits, with the fixed default split. dsc: Dynamic Split Computing as published, device and cloud "
    "only, no exits, told the current rate.",
    "oracle: for each request the plan that answers first in expectation, with the link's present and future, the "
    "queues for the device and for the link and all costs known, but not where the sample will leave, nor the queues "
    "further up. Neither what the device saw of the link nor its breaker keeps anything of it back. On running tiers,"
    " the queue for the device is what the device makes of the runs that wait there, and that for the link is worked "
    "out from the trace and from what the policy's own requests have put on it. "
    "oracle-now: the same without foresight: of the link it knows only the rate as it is, as the mean of the last "
    "fifth of a second, and takes it to last. oracle-late: it knows only the rate half a second ago: about what can be "
    "found out by sending a few requests a second.",
    "EfficientNet-B0 has random weights: its times and bytes are real, its answers mean nothing. The oracles know how "
    "many bytes each codec makes of the very pictures that are sent; offramp knows what the bundle says, which for the "
    "one that is made here was measured on the same pictures, and learns sizes of image files as it sends them.",
    "failed: without an answer; what the device finished by itself is one. missed: failed, or later than the deadline. "
    "bytes: what the device sent, probes and calls in vain included, by the number of requests. switches: how often a "
    "request had another plan than the one before it, of all turns together.",
    "Simulated over real: after a policy has run on the tiers, it is simulated with the same arrivals, and with each "
    "tier as fast, and as evenly, as this policy's own requests found it in that very run, and with what those that "
    "found the device idle cost besides; what a call costs was timed on the same tiers before. The ratio thus tests "
    "the simulated links, queues and decisions. Foretold over real: as it was simulated before anything ran, once, by "
    "what had been measured until then. It tests besides whether the speed of the machines can be foretold.",
    "A trace crosses a break-even where the oracle's plan changes along it and every single plan is more than 10 % "
    "behind the best one in more than 5 % of its moments.",
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What to compare. seconds: of each trace, None: all of it."""

    traces: Sequence[Path]
    bundles: Sequence[Path]
    data: Path | None
    photos: Path | None
    loops: Sequence[Loop]
    policies: Sequence[str]
    seconds: float | None
    rounds: int
    seed: int
    out: Path
    world: World


@dataclass(slots=True)
class Found:
    """All comparisons with their plots, and how the simulation fared against the running tiers.

    standing: of each comparison with the oracle, how far from it each policy is. virtual_ratios: of the simulation of
    what ran; foretold_ratios: of the one before it, which knew only what had been measured until then.
    """

    comparisons: list[Comparison] = field(default_factory=list)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    standing: dict[str, Picture] = field(default_factory=dict)
    virtual_ratios: dict[str, Mapping[str, float]] = field(default_factory=dict)
    foretold_ratios: dict[str, Mapping[str, float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> list[Target]:
        return targets(self.comparisons, self.virtual_ratios)

    def add(self, each: Bench, compared: study.Compared) -> None:
        title = compared.comparison.title
        self.comparisons.append(compared.comparison)
        self.pictures[title] = study.pictures(compared)
        if ratios := compared.comparison.over_oracle:
            self.standing[title] = figures.standing(ratios, title)
            self.pictures[title].insert(0, self.standing[title])
        self.facts[f"{each.workload.name}: device alone, ms"] = round(1000 * each.device_seconds, 2)

    def add_regimes(self, each: Bench) -> None:
        """Under the last comparison: what the planner would do at every rate, on this workload's machines."""
        self.pictures[self.comparisons[-1].title].append(study.regime_map(each))


Advance = Callable[[str], None]


def on_paper(asked: Asked, on_step: Advance) -> Found:
    """Everything in the simulation."""
    found = Found()
    for each in _all_ready(asked, on_step, 1):
        for loop in asked.loops:
            trials = study.trials(asked.traces, asked.seconds, loop, asked.seed)
            build = partial(built, each.workload.bundle.path, asked)
            found.add(each, study.simulated(each, trials, asked.policies, on_step, build, round(hardware.cores())))
        found.add_regimes(each)
    return found


async def on_tiers(asked: Asked, on_step: Advance) -> Found:
    """Everything on running tiers, and in a simulation of just these."""
    found = Found()
    for expected in _all_ready(asked, on_step, asked.rounds):
        async with live.running(expected, asked.out) as tiers:
            found_out = await calibration.calibrate(expected, tiers)
            each = ready(expected.workload, asked, found_out.of(asked.world))
            _draw(asked, each, asked.rounds)  # anew: what was found out moves the rate a little
            found.facts |= {f"{each.workload.name}: {name}": value for name, value in asdict(found_out).items()}
            for loop in asked.loops:
                real, virtual, foretold = await _both(asked, each, tiers, loop, on_step)
                found.add(each, real)
                found.add(each, virtual)
                title, ran = real.comparison.title, real.comparison
                found.virtual_ratios[title] = study.simulated_over_real(virtual.comparison, ran)
                found.foretold_ratios[title] = study.simulated_over_real(foretold.comparison, ran)
        found.add_regimes(each)
    return found


def _all_ready(asked: Asked, on_step: Advance, rounds: int) -> list[Bench]:
    """Each workload. Raises InvalidInput where nobody would come in some turn, before hours are spent on the others."""
    found = [ready(workload, asked, asked.world) for workload in prepared(asked, on_step)]
    for each in found:
        _draw(asked, each, rounds)
    return found


def _draw(asked: Asked, each: Bench, rounds: int) -> None:
    """Raises InvalidInput where nobody would come in some turn."""
    if Loop.OPEN in asked.loops:
        for trial in study.trials(asked.traces, asked.seconds, Loop.OPEN, asked.seed):
            for turn in trial.turns(rounds):
                turn.arrivals(each.per_second)


async def _both(
    asked: Asked, each: Bench, tiers: live.Tiers, loop: Loop, on_step: Advance
) -> tuple[study.Compared, study.Compared, study.Compared]:
    """Real, then simulated with the tiers as fast as they were for each policy: all else on this machine slows them.

    The third is what was simulated before anything ran.
    """
    real, virtual, foretold = (study.empty(each, loop, real=real) for real in (True, False, False))
    trials = study.trials(asked.traces, asked.seconds, loop, asked.seed)
    for at, (trial, file) in enumerate(zip(trials, asked.traces, strict=True)):
        speeds = {name: Speeds(each.costs, each.world, each.workload.bundle.manifest) for name in asked.policies}
        expected = await asyncio.to_thread(run, each, trial, asked.policies)
        ran = await live.compare(each, tiers, trial, file, expected, asked.rounds, speeds, on_step, at)
        real.add(each, trial, ran)
        foretold.add(each, trial, expected)
        again = {}
        for name, of in speeds.items():
            as_it_was = ready(each.workload, asked, of.applied())
            same = replace(as_it_was, asked_per_second=each.per_second, paces=of.paces())
            again[name] = await asyncio.to_thread(_again, same, trial, name, ran, asked.rounds)
        virtual.add(each, trial, replace(ran, runs=again))
    return real, virtual, foretold


def _again(each: Bench, trial: Trial, name: str, ran: Outcome, rounds: int) -> Runs:
    """One policy simulated as often as it ran, with the same arrivals; hindsight with the plan that really ran."""
    whole, plan = Runs(), ran.static
    make: Maker = (lambda _: Static(plan)) if name == BEST_STATIC and plan is not None else maker(each, name)
    for again in trial.turns(rounds):
        whole.take(simulate(each, again, make))
    return whole


def built(path: Path, asked: Asked) -> Bench:
    """What `ready` made of the bundle at `path`; all that takes long was measured then."""
    return ready(_workload(path, asked), asked, asked.world)


def prepared(asked: Asked, on_step: Advance) -> list[Workload]:
    """The workloads asked for, or the two that there should always be.

    Raises InvalidInput where two have one name, by which reports go.
    """
    if asked.bundles:
        found = [_workload(path, asked) for path in asked.bundles]
        if len({each.name for each in found}) < len(found):
            raise InvalidInput("--bundle needs bundles with names of their own, by which the report tells them apart")
        return found
    return [_workload(WITH_EXITS, asked), _plain(asked)]


def ready(workload: Workload, asked: Asked, world: World) -> Bench:
    """The workload with everything measured; what was measured before is taken from the output folder."""
    return bench(workload, world, Options(), asked.out / "measured", SwitchRule())


def write(found: Found, asked: Asked, json_file: Path | None) -> None:
    """report.html, policies.csv, a picture for each comparison and, where asked for, the JSON."""
    asked.out.mkdir(parents=True, exist_ok=True)
    for title, picture in found.standing.items():
        (asked.out / f"{re.sub(r'[^a-z0-9]+', '-', title.lower())}.png").write_bytes(picture.png)
    settings = {**asdict(asked.world), "seed": asked.seed, "seconds of each trace": asked.seconds} | found.facts
    if any(each.real for each in found.comparisons):
        settings["turns of each policy"] = asked.rounds
    ratios = {report.SIMULATED: found.virtual_ratios, report.FORETOLD: found.foretold_ratios}
    page = report.as_html(found.comparisons, found.targets, found.pictures, ratios, settings, HOW)
    (asked.out / "report.html").write_text(page, encoding="utf-8")
    (asked.out / "policies.csv").write_text(report.as_csv(found.comparisons), encoding="utf-8")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        whole = report.as_json(found.comparisons, found.targets, ratios, settings)
        json_file.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _plain(asked: Asked) -> Workload:
    """EfficientNet-B0 with random weights, and what the codecs make of its activations measured on the photos."""
    path = asked.out / NO_EXITS
    if not path.is_dir():
        adopt.adopt_network(NO_EXITS, path, (), None, 0, asked.photos)
    each = ready(_workload(path, asked), asked, asked.world)
    bundle.write(path, each.costs.bytes_known(bundle.read_manifest(path)))
    return _workload(path, asked)


def _workload(path: Path, asked: Asked) -> Workload:
    """With labelled inputs where the bundle or the data has some, else with photos."""
    manifest = bundle.read_manifest(path)
    source = workloads.source(manifest)
    if source is None:
        return workloads.labelled(manifest.name, path, None, SAMPLES)
    if source == workloads.PHOTOS:
        return workloads.unlabelled(manifest.name, path, asked.photos, asked.seed)
    if asked.data is None:
        raise InvalidInput(f"{path} carries no samples; give {source} with the folder of its data set")
    folders = (asked.data / manifest.name, asked.data / manifest.name.replace("-", "_"), asked.data)
    folder = next((folder for folder in folders if folder.is_dir()), asked.data)
    return workloads.labelled(manifest.name, path, folder, SAMPLES)
