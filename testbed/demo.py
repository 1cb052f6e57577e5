"""`make run`: the whole testbed, real inputs through the public door, a live table, a summary and two pictures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
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
from services.bundle import Bundle
from services.domain import Plan, Tier
from services.errors import OfframpError
from services.model import Model
from testbed import figures, load, local, report
from testbed.load import Outcome
from testbed.local import Testbed, TestbedSettings
from training import evaluate
from training.datasets import Split


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

    def __rich__(self) -> Group:
        table = Table("answered at", "answers", "p50 ms", box=None)
        for tier, seconds in self.seconds.items():
            p50 = f"{1000 * float(np.median(seconds)):.1f}" if seconds else "–"
            table.add_row(tier.label, str(len(seconds)), p50)
        done = self.counts["right"] + self.counts["wrong"]
        accuracy = f"{self.counts['right'] / done:.2%}" if done else "–"
        return Group(self.bar, table, f"accuracy {accuracy}   failed {self.counts['failed']}")


async def demonstrate(
    settings: TestbedSettings, split: Split, out: Path, in_flight: int, console: Console
) -> dict[str, Any]:
    """Sends `split` through the testbed and writes `summary.json`, `exits.png` and `journey.png` into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    loaded = bundle.load(settings.bundle)
    images, labels = split.images, split.labels
    async with local.running(settings) as testbed:
        _show_addresses(testbed, console)
        outcomes = await _submit(
            testbed, loaded.manifest.name, _with_channels(images), labels, settings, in_flight, console
        )
    return await asyncio.to_thread(_write, loaded, images, labels, outcomes, settings, out)


async def serve(settings: TestbedSettings, console: Console) -> None:
    """Keeps the testbed up until Ctrl-C, then drains it from the device up; a second Ctrl-C does not wait."""
    stop = asyncio.Event()
    async with local.running(settings) as testbed:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
    testbed: Testbed,
    model: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    settings: TestbedSettings,
    in_flight: int,
    console: Console,
) -> list[Outcome]:
    progress = _Progress(len(images))
    async with AsyncClient(testbed.device.address) as client:
        with Live(progress, console=console, refresh_per_second=8):
            outcomes = await load.submit(client, model, images, labels, settings.seed, in_flight, progress.add)
        console.print()
    testbed.check()
    return outcomes


def _write(
    loaded: Bundle,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    outcomes: list[Outcome],
    settings: TestbedSettings,
    out: Path,
) -> dict[str, Any]:
    """Compares with the whole network in this process, and writes the results."""
    model = Model(loaded)
    inputs = evaluate.preprocess(images, loaded.manifest)
    logits = evaluate.exit_logits(model, inputs)
    right = logits.argmax(axis=2) == labels
    summary = report.summarise(outcomes, float(right[-1].mean()), images[0].nbytes, settings)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    manifest = loaded.manifest
    figures.exits_figure(
        evaluate.confidences(manifest, logits),
        right,
        [spec.threshold for spec in manifest.exits],
        f"{manifest.name}: early exits on {len(labels)} held-out inputs",
        out / "exits.png",
    )
    hard = _hardest(outcomes)
    figures.journey_figure(
        model,
        inputs[hard.sample : hard.sample + 1],
        images[hard.sample],
        _cuts(hard),
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


def _with_channels(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return images[..., None] if images.ndim == 3 else images


def _show_addresses(testbed: Testbed, console: Console) -> None:
    table = Table("part", "address", "control", "process", title="Running", title_justify="left")
    for part in testbed.parts:
        table.add_row(part.name, part.address, part.announced.get("control", ""), str(part.process.pid))
    console.print(table)
