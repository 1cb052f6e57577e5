"""Triton's series under Triton's names, so that dashboards and autoscalers made for it work here unchanged.

None of them ends in `_total`, which our client library gives to every counter: hence a collector of our own. Durations
are added up in microseconds. A request's answer is computed here and above: what a tier waits for those above is part
of its `compute_infer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import Metric

from services.bundle import Manifest
from services.bundles import newest_last
from services.metrics.table import Group, Series
from services.observing import Finished, Refused

_LABELS = ("model", "version")
_REJECTED = frozenset({"QUEUE_FULL", "DRAINING", "MODEL_NOT_READY", "UNAVAILABLE", "UPSTREAM_UNAVAILABLE"})
_FAILURES = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_MICROSECONDS = 1e6


def _series(name: str, unit: str, sentence: str, *more: str, gauge: bool = False) -> Series:
    return Series(f"nv_inference_{name}", "gauge" if gauge else "counter", (*_LABELS, *more), unit, sentence)


TRITON = Group(
    "Triton's names",
    (
        _series("request_success", "requests", "Requests answered."),
        _series("request_failure", "requests", "Requests that failed, by Triton's reasons.", "reason"),
        _series("count", "samples", "Samples answered."),
        _series("exec_count", "requests", "Requests executed; runs that they shared are in offramp_batches_total."),
        _series("pending_request_count", "requests", "Runs that wait for a worker now.", gauge=True),
        _series("request_duration_us", "microseconds", "Time of answered requests, added up."),
        _series("queue_duration_us", "microseconds", "Part of it spent waiting for a worker."),
        _series("compute_input_duration_us", "microseconds", "Part of it spent decoding."),
        _series("compute_infer_duration_us", "microseconds", "Part of it spent computing, here and above."),
        _series("compute_output_duration_us", "microseconds", "Part of it spent encoding."),
    ),
)


@dataclass(slots=True)
class _Tally:
    """What one model has done; its names are those of the series."""

    request_success: int = 0
    count: int = 0
    exec_count: int = 0
    request_duration_us: float = 0.0
    queue_duration_us: float = 0.0
    compute_input_duration_us: float = 0.0
    compute_infer_duration_us: float = 0.0
    compute_output_duration_us: float = 0.0
    failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_FAILURES, 0))


class TritonNames:
    """An observer that adds up, and a collector that tells it by Triton's names, for the models given to `serve`."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._known: dict[str, tuple[str, str]] = {}
        self._waiting: dict[tuple[str, str], Callable[[], int]] = {}

    def serve(self, manifest: Manifest, waiting: Callable[[], int]) -> None:
        """From now on this model has series; what names no version means the newest. waiting: runs that do."""
        key = (manifest.name, manifest.version)
        self._waiting[key] = waiting  # first: whoever collects goes by the tallies, maybe at this moment
        self._tallies.setdefault(key, _Tally())
        known = self._known.get(manifest.name, key)
        newest = newest_last((known[1], manifest.version))[-1]
        self._known |= {manifest.name: (manifest.name, newest), manifest.model_hash: key}

    def answered(self, finished: Finished) -> None:
        tally = self._tallies.get((finished.manifest.name, finished.manifest.version))
        if tally is None:
            return
        trace = finished.response.trace
        hop, seconds = trace.hops[0], trace.seconds
        aside = hop.queue_seconds + hop.decode_seconds + hop.encode_seconds
        microseconds = _MICROSECONDS * finished.requests
        tally.request_success += finished.requests
        tally.exec_count += 1
        tally.count += len(finished.response.predictions)
        tally.request_duration_us += microseconds * seconds
        tally.queue_duration_us += microseconds * hop.queue_seconds
        tally.compute_input_duration_us += microseconds * hop.decode_seconds
        tally.compute_infer_duration_us += microseconds * (seconds - aside)
        tally.compute_output_duration_us += microseconds * hop.encode_seconds

    def refused(self, refused: Refused) -> None:
        key = (refused.model, refused.version) if refused.version else self._known.get(refused.model)
        if key in self._tallies:
            self._tallies[key].failures[_failure(refused.reason)] += 1

    def collect(self) -> Iterator[Metric]:
        for series in TRITON.series:
            family = Metric(series.name, series.sentence, "gauge" if series.kind == "gauge" else "unknown")
            for labels, value in self._values(series):
                family.add_sample(series.name, dict(zip(series.labels, labels, strict=True)), value)
            yield family

    def _values(self, series: Series) -> Iterator[tuple[tuple[str, ...], float]]:
        field_name = series.name.removeprefix("nv_inference_")
        for key, tally in list(self._tallies.items()):
            if field_name == "request_failure":
                yield from (((*key, reason), count) for reason, count in tally.failures.items())
            elif field_name == "pending_request_count":
                yield key, self._waiting[key]()
            else:
                yield key, getattr(tally, field_name)


def _failure(reason: str) -> str:
    if reason in _REJECTED:
        return "REJECTED"
    return {"DEADLINE_EXCEEDED": "CANCELED", "INTERNAL": "BACKEND"}.get(reason, "OTHER")
