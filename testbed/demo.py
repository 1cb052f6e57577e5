"""`make run`: the whole testbed, real inputs through the public door, a live table, a summary and four pictures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from device_agent.client import AsyncClient
from services import bundle
from services.bundle import Bundle, Manifest
from services.domain import Plan, Tier, TierProfile
from services.errors import OfframpError
from services.model import Model
from services.profile import Measured
from services.uplink import Uplink
from testbed import figures, load, local, plans, report
from testbed.commands.waiting import hang_up
from testbed.load import Outcome
from testbed.local import Testbed, TestbedSettings
from testbed.plans import Leg
from testbed.reshape import reshape
from training import evaluate
from training.datasets import Split

_MAX_RUN_SECONDS = 3600.0
_ASK_SECONDS = 5.0


@dataclass(slots=True)
class _Progress:
    """The live table: how far, how right, and where from."""

    total: int
    bar: Progress = field(
        default_factory=lambda: Progress(
            TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        )
    )
    seconds: dict[Tier, list[float]] = field(default_factory=lambda: {tier: [] for tier in Tier})
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.bar.add_task("requests", total=self.total)

    def add(self, outcome: Outcome) -> None:
        self.bar.advance(self.bar.task_ids[0])
        self.counts["right" if outcome.right else "wrong"] += 1
        if outcome.prediction is None:
            self.counts["failed"] += 1
        else:
            self.seconds[outcome.prediction.tier].append(outcome.seconds)

    @property
    def done(self) -> int:
        return self.counts["right"] + self.counts["wrong"]

    def __rich__(self) -> Group:
        table = Table("answered at", "answers", "p50 ms", box=None)
        for tier, seconds in self.seconds.items():
            p50 = f"{1000 * float(np.median(seconds)):.1f}" if seconds else "–"
            table.add_row(tier.label, str(len(seconds)), p50)
        accuracy = f"{self.counts['right'] / self.done:.2%}" if self.done else "–"
        return Group(self.bar, table, f"accuracy {accuracy}   failed {self.counts['failed']}")


@dataclass(frozen=True, slots=True)
class _Run:
    """What came of a run: how each request ended, how the links stood, and what the machines can do."""

    outcomes: list[Outcome]
    legs: list[Leg]
    profiles: dict[Tier, TierProfile]


async def demonstrate(
    settings: TestbedSettings, split: Split, out: Path, in_flight: int, console: Console
) -> dict[str, Any]:
    """Sends `split` through the testbed and writes `summary.json` and four pictures into `out`.

    Half way, the link between device and edge becomes what `settings.then` says.
    """
    out.mkdir(parents=True, exist_ok=True)
    loaded = bundle.load(settings.bundle)
    async with local.running(settings) as testbed:
        _show_addresses(testbed, console)
        run = await _submit(testbed, loaded.manifest, split, settings, in_flight, console)
    return await asyncio.to_thread(_write, loaded, split, run, settings, out)


async def serve(settings: TestbedSettings, console: Console) -> None:
    """Keeps the testbed up until Ctrl-C, then drains it from the device up; a second Ctrl-C does not wait."""
    stop = asyncio.Event()
    async with local.running(settings) as testbed:
        for number in (signal.SIGINT, signal.SIGTERM, *hang_up()):
            asyncio.get_running_loop().add_signal_handler(number, _on_signal, stop, testbed)
        _show_addresses(testbed, console)
        console.print("Ctrl-C drains it. Try: offramp infer IMAGE --target " + testbed.device.address)
        gone: set[str] = set()
        while not stop.is_set():
            for part in testbed.gone():
                if part.name not in gone:
                    console.print(f"[red]{part.name} ended with code {part.process.returncode}; the rest goes on[/]")
                    gone.add(part.name)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)
        console.print("draining …")


async def _submit(
    testbed: Testbed, manifest: Manifest, split: Split, settings: TestbedSettings, in_flight: int, console: Console
) -> _Run:
    progress = _Progress(len(split))
    half = asyncio.Event()

    def count(outcome: Outcome) -> None:
        progress.add(outcome)
        if 2 * progress.done >= progress.total:
            half.set()

    async with AsyncClient(testbed.device.address) as client:
        change = asyncio.create_task(_change(testbed, settings, half))
        with Live(progress, console=console, refresh_per_second=8):
            images = with_channels(split.images)
            outcomes = await load.submit(client, manifest.name, images, split.labels, settings.seed, in_flight, count)
        console.print()
        legs = await change
        profiles = await _profiles(testbed, settings)
    testbed.check()
    return _Run(outcomes, legs, profiles)


async def _change(testbed: Testbed, settings: TestbedSettings, half: asyncio.Event) -> list[Leg]:
    """The stretches of the run: one, or two where the link changes half way."""
    began, first = time.perf_counter(), Leg(0.0, settings.device_edge, settings.edge_cloud)
    if settings.then is None:
        return [first]
    await asyncio.wait_for(half.wait(), _MAX_RUN_SECONDS)
    await reshape(testbed.device_edge.announced["control"], settings.then)
    return [first, Leg(time.perf_counter() - began, settings.then, settings.edge_cloud)]


async def _profiles(testbed: Testbed, settings: TestbedSettings) -> dict[Tier, TierProfile]:
    """What each machine can do: edge and cloud say it, and the device is this very machine, slowed down."""
    edge = Uplink(Tier.DEVICE, testbed.edge.address)
    try:
        told = {profile.tier: profile for profile in (await edge.describe(_ASK_SECONDS)).profiles}
    finally:
        await edge.close()
    if cloud := told.get(Tier.CLOUD):
        device = Measured(cloud.segments, cloud.codecs).slowed(settings.device_slowdown)
        told[Tier.DEVICE] = TierProfile(Tier.DEVICE, 0.0, device.segments, device.codecs)
    return told


def _write(loaded: Bundle, split: Split, run: _Run, settings: TestbedSettings, out: Path) -> dict[str, Any]:
    """Compares with the whole network in this process, and writes the results."""
    images, labels, outcomes, manifest = split.images, split.labels, run.outcomes, loaded.manifest
    model = Model(loaded)
    inputs = evaluate.preprocess(images, manifest)
    logits = evaluate.exit_logits(model, inputs)
    right = logits.argmax(axis=2) == labels
    summary = report.summarise(outcomes, float(right[-1].mean()), images[0].nbytes, settings)
    summary |= {
        "plans": plans.history(outcomes),
        "oracle_ratio": plans.oracle_ratio(outcomes, run.legs, manifest, run.profiles),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    plans.plans_figure(outcomes, run.legs, f"{manifest.name}: the plan follows the link", out / "plans.png")
    figures.exits_figure(
        evaluate.confidences(manifest, logits),
        right,
        manifest.exits,
        f"{manifest.name}: early exits on {len(labels)} held-out inputs",
        out / "exits.png",
    )
    hard = _hardest(outcomes)
    figures.journey_figure(
        model,
        inputs[hard.sample : hard.sample + 1],
        images[hard.sample],
        _cuts(hard) or [(spec.split_point, "int8+zstd") for spec in manifest.exits[:-1]],
        _title(hard, manifest.labels),
        out / "journey.png",
    )
    Image.fromarray(images[hard.sample].squeeze()).save(out / "sample.png")
    return summary


def _on_signal(stop: asyncio.Event, testbed: Testbed) -> None:
    if stop.is_set():
        testbed.kill()
    stop.set()


def _hardest(outcomes: list[Outcome]) -> Outcome:
    """The sample that travelled furthest, and of those the one least sure."""
    answered = [o for o in outcomes if o.prediction]
    if not answered:
        raise OfframpError("no request was answered; see the logs of the tiers")
    return max(answered, key=lambda o: (o.prediction.tier, -o.prediction.confidence) if o.prediction else (-1, 0))


def _title(outcome: Outcome, labels: tuple[str, ...]) -> str:
    given = outcome.prediction
    if given is None:
        return f"sample {outcome.sample}, not answered"
    return (
        f"sample {outcome.sample}, a {labels[outcome.truth]}: answered {labels[given.label]} "
        f"at the {given.tier.label}, confidence {given.confidence:.3f}"
    )


def _cuts(outcome: Outcome) -> list[tuple[int, str]]:
    """Where the plan of this request cuts the network, and the codec each activation leaves by."""
    stages = Plan.parse(outcome.prediction.plan).stages if outcome.prediction else ()
    return [(below.segment.end, above.codec) for below, above in pairwise(stages)]


def with_channels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8 [N, H, W] or [N, H, W, C] as [N, H, W, C]."""
    return images[..., None] if images.ndim == 3 else images


def _show_addresses(testbed: Testbed, console: Console) -> None:
    table = Table("part", "address", "control", "process", title="Running", title_justify="left")
    for part in testbed.parts:
        table.add_row(part.name, part.address, part.announced.get("control", ""), str(part.process.pid))
    console.print(table)
    if (page := testbed.device.announced.get("console", "-")) != "-":
        console.print(f"Live console: [bold]{page}[/]")
    console.print("Metrics, at other ports with each start:")
    for tier in (testbed.device, testbed.edge, testbed.cloud):
        console.print(f"  {tier.name}: {tier.announced['metrics']}")
