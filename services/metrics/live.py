"""What is read when Prometheus asks, from what the process holds then. What is unknown then is absent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from services import log
from services.batcher import Batcher
from services.domain import LinkEstimate, Tier
from services.limiter import Limiter
from services.metrics.table import Series, series
from services.profile import Profiler

WAIT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram: how many values there were up to each bound, the last one infinite, and their sum."""

    counts: tuple[float, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Reading:
    """One value of a series of the table."""

    name: str
    labels: tuple[str, ...]
    value: float | Spread


Reader = Callable[[], Iterable[Reading]]


@dataclass(slots=True, eq=False)
class Live:
    """Asks each reader when it is collected; on `loop`, where given, so that readers may touch what lives there.

    Prometheus is answered from a thread of its own. Where the loop is too busy to answer, everything here is absent.
    """

    loop: asyncio.AbstractEventLoop | None = None
    _readers: list[Reader] = field(default_factory=list)

    def add(self, reader: Reader) -> None:
        """Asks `reader` too, from now on."""
        self._readers.append(reader)

    def collect(self) -> Iterator[Metric]:
        """Families in the order of the table; a series that nobody reads now is left out.

        Versions of a model share their series: counters are added up, of anything else the last one read stands.
        """
        found: dict[str, dict[tuple[str, ...], float | Spread]] = defaultdict(dict)
        counters = {each.name for each in series() if each.kind == "counter"}
        for reading in self._on_loop():
            value, before = reading.value, found[reading.name].get(reading.labels, 0.0)
            if reading.name in counters and not isinstance(value, Spread) and not isinstance(before, Spread):
                value += before
            found[reading.name][reading.labels] = value
        yield from (family(each, found[each.name]) for each in series() if each.live and each.name in found)

    def _on_loop(self) -> list[Reading]:
        if self.loop is None or not self.loop.is_running() or asyncio._get_running_loop() is self.loop:
            return self._read()
        asked = asyncio.run_coroutine_threadsafe(self._read_there(), self.loop)
        with contextlib.suppress(TimeoutError):
            return asked.result(WAIT_SECONDS)
        asked.cancel()
        return []

    async def _read_there(self) -> list[Reading]:
        return self._read()

    def _read(self) -> list[Reading]:
        readings: list[Reading] = []
        for reader in self._readers:
            try:
                readings += reader()
            except Exception:  # one that fails must not take the other series with it
                log.event("failed", logging.ERROR, exc_info=True, task="metrics")
        return readings


def of_door(tier: Tier, limiter: Limiter, waiting: Callable[[], int]) -> Reader:
    """In flight, waiting, and turned away at the door. waiting: runs that wait for a worker."""

    def read() -> Iterator[Reading]:
        yield Reading("offramp_in_flight", (tier.label,), limiter.in_flight)
        yield Reading("offramp_queue_length", (tier.label,), waiting())
        for reason, count in limiter.rejected.items():
            yield Reading("offramp_rejected_total", (tier.label, reason), count)

    return read


def of_loop(tier: Tier, loop: asyncio.AbstractEventLoop) -> Reader:
    """What runs or waits on the event loop: it grows where calls are left behind."""

    def read() -> Iterator[Reading]:
        yield Reading("offramp_tasks", (tier.label,), len(asyncio.all_tasks(loop)))

    return read


def of_link(tier: Tier, link: Callable[[], LinkEstimate]) -> Reader:
    """The link above `tier`."""

    def read() -> Iterator[Reading]:
        found, labels = link(), (tier.label,)
        known = found.rtt_seconds is not None and found.up_bytes_per_second is not None
        yield Reading("offramp_link_known", labels, float(known))
        values = {
            "rtt_seconds": found.rtt_seconds,
            "rate_bytes_per_second": found.up_bytes_per_second,
            "age_seconds": found.age_seconds,
        }
        yield from (Reading(f"offramp_link_{name}", labels, v) for name, v in values.items() if v is not None)

    return read


def of_retries(tier: Tier, counts: Mapping[str, int]) -> Reader:
    """Requests for which another replica of the tier above was wanted, by what came of it."""

    def read() -> Iterator[Reading]:
        for outcome, count in counts.items():
            yield Reading("offramp_retries_total", (tier.label, outcome), count)

    return read


def of_upstream(tier: Tier, states: Callable[[], Iterable[tuple[str, int]]]) -> Reader:
    """The way to the tier above: 0 open for calls, 1 being tried, 2 failing."""

    def read() -> Iterator[Reading]:
        for upstream, state in states():
            yield Reading("offramp_upstream_state", (tier.label, upstream), state)

    return read


def of_model(tier: Tier, name: str, profiler: Profiler, warmup_seconds: Callable[[], float | None]) -> Reader:
    """How much slower than when idle this machine runs the model lately, and what getting ready took."""

    def read() -> Iterator[Reading]:
        yield Reading("offramp_slowdown", (tier.label, name), profiler.profile(()).slowdown)
        if (seconds := warmup_seconds()) is not None:
            yield Reading("offramp_warmup_seconds", (tier.label, name), seconds)

    return read


def of_batches(tier: Tier, name: str, batcher: Batcher) -> Reader:
    """Which segments' runs requests share, and whether that pays, of those that ran here."""

    def read() -> Iterator[Reading]:
        for piece, tally in batcher.tallies.items():
            labels = (tier.label, name, str(piece))
            yield Reading("offramp_batches_total", labels, tally.batches)
            yield Reading("offramp_batched_runs_total", labels, tally.runs)
            yield Reading("offramp_batch_pays", labels, batcher.pays(piece))

    return read


def family(each: Series, values: Mapping[tuple[str, ...], float | Spread]) -> Metric:
    """What Prometheus is told of one series, by the values of its labels."""
    if each.kind == "histogram":
        return _spreads(each, values)
    kind = CounterMetricFamily if each.kind == "counter" else GaugeMetricFamily
    family = kind(each.name, each.sentence, labels=each.labels)
    for labels, value in values.items():
        assert not isinstance(value, Spread)
        family.add_metric(labels, value)
    return family


def _spreads(each: Series, values: Mapping[tuple[str, ...], float | Spread]) -> Metric:
    family = HistogramMetricFamily(each.name, each.sentence, labels=each.labels)
    bounds = (*map(str, each.buckets), "+Inf")
    for labels, value in values.items():
        assert isinstance(value, Spread)
        family.add_metric(labels, list(zip(bounds, value.counts, strict=True)), value.total)
    return family
