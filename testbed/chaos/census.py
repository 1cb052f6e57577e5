"""What running parts hold, from the kernel and from their metrics, and what the device has counted."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from testbed.chaos.history import Counters, Usage
from testbed.local import Part

_TIMEOUT_SECONDS = 5.0
_INFER = ("ModelInfer", "ModelStreamInfer")

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels, value."""


async def usage(parts: Iterable[Part]) -> dict[str, Usage]:
    """What each part holds now, by its name. Raises OSError for one that is gone or does not answer."""
    return {part.name: await asyncio.to_thread(_of_part, part) for part in parts}


async def counters(device: Part) -> Counters:
    """What the device has counted since it was started."""
    return counted(await asyncio.to_thread(scrape, device.announced["metrics"]))


def scrape(url: str) -> list[Sample]:
    """Everything on a page of metrics; blocks."""
    with urlopen(url, timeout=_TIMEOUT_SECONDS) as reply:
        return parsed(reply.read().decode())


def parsed(text: str) -> list[Sample]:
    """Everything on a page of metrics, which may be empty."""
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def faults(logs: Path) -> tuple[str, ...]:
    """What tiers logged as a fault of their own, by the last line of each: the kind of error that nobody expected."""
    lines = (line for file in sorted(logs.glob("*.jsonl")) for line in file.read_text(errors="replace").splitlines())
    return tuple(_told(line) for line in lines if '"event": "failed"' in line or line.startswith("Traceback"))


def _told(line: str) -> str:
    """One sentence of a log line."""
    try:
        said = json.loads(line)
        return f"{said['tier']}: {said['exception'].splitlines()[-1]}"[:300]
    except (ValueError, KeyError, IndexError):
        return line[:300]


def difference(after: Counters, before: Counters) -> Counters:
    """What was counted in between."""
    return Counters(
        after.started - before.started,
        _less(after.handled, before.handled),
        after.requests - before.requests,
        after.samples - before.samples,
        _less(after.degraded, before.degraded),
    )


def of_process(process: int) -> Usage:
    """Resident memory, descriptors and threads of a process. Raises OSError where there is none."""
    folder = Path(f"/proc/{process}")
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    kilobytes = int(fields["VmRSS"].split()[0])
    return Usage(process, kilobytes << 10, len(os.listdir(folder / "fd")), int(fields["Threads"]))


def held(found: Usage, page: list[Sample]) -> Usage:
    """The same, with what the part's page of metrics says of itself; a link has none."""
    gauges = (_total(page, f"offramp_{name}") for name in ("in_flight", "queue_length", "tasks"))
    return Usage(found.process, found.rss_bytes, found.descriptors, found.threads, *gauges)


def _of_part(part: Part) -> Usage:
    found, metrics = of_process(part.process.pid), part.announced.get("metrics")
    return found if metrics is None else held(found, scrape(metrics))


def counted(page: list[Sample]) -> Counters:
    """What the device's page of metrics says of calls and answers."""
    handled: Counter[str] = Counter()
    degraded: Counter[str] = Counter()
    for name, labels, value in page:
        if name == "grpc_server_handled_total" and labels["grpc_method"] in _INFER and value:
            handled[labels["grpc_code"]] += int(value)
        if name == "offramp_degraded_total" and value:
            degraded[labels["reason"]] += int(value)
    started = sum(v for n, labels, v in page if n == "grpc_server_started_total" and labels["grpc_method"] in _INFER)
    answered = (_total(page, name) or 0.0 for name in ("offramp_requests_total", "offramp_samples_total"))
    requests, samples = answered
    return Counters(started, handled, requests, samples, degraded)


def _total(page: list[Sample], name: str) -> float | None:
    """The sum of all series called `name`; None where there is none."""
    found = [value for each, _, value in page if each == name]
    return sum(found) if found else None


def _less(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    found = {name: value - before.get(name, 0) for name, value in after.items()}
    return {name: value for name, value in found.items() if value}
