"""Statistics of each model as Triton tells them, counted from every request that this tier answered.

All but the whole of a request is this tier's own time. Requests that travelled here as one were one execution, whose
time each of them took.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.observing import Finished, Refused
from services.open_inference import messages
from services.response import Trace
from services.serving import Models, Served

_MAX_SIZES = 1024
_STAGES = ("compute_input", "compute_infer", "compute_output")
"""Decoding, computing, encoding."""


@dataclass(slots=True)
class _Counts:
    """How many, and seconds by name."""

    count: int = 0
    executions: int = 0
    samples: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    last_ms: int = 0

    def add(self, count: int, executions: int, samples: int, seconds: dict[str, float], now_ms: int) -> None:
        self.count += count
        self.executions += executions
        self.samples += samples
        self.last_ms = now_ms
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    def duration(self, name: str) -> Any:
        return _duration(self.count, self.seconds.get(name, 0.0))


class Statistics:
    """An observer that counts by model. now: seconds since 1970."""

    def __init__(self, models: Models, now: Callable[[], float] = time.time):
        self._models = models
        self._now = now
        self._whole: dict[str, _Counts] = defaultdict(_Counts)
        self._by_size: dict[tuple[str, int], _Counts] = {}

    def answered(self, finished: Finished) -> None:
        self.answered_together((finished,))

    def answered_together(self, finished: Sequence[Finished]) -> None:
        alike: dict[tuple[str, int, int], list[Trace]] = {}
        for each in finished:
            key = each.manifest.model_hash, len(each.response.predictions), each.requests
            alike.setdefault(key, []).append(each.response.trace)
        for (name, samples, requests), traces in alike.items():
            self._add(name, samples, requests, traces)

    def _add(self, name: str, samples: int, requests: int, traces: Sequence[Trace]) -> None:
        seconds = dict.fromkeys((*_STAGES, "queue", "success"), 0.0)
        for trace in traces:
            here = trace.hops[0]
            seconds["compute_input"] += here.decode_seconds
            seconds["compute_infer"] += here.compute_seconds
            seconds["compute_output"] += here.encode_seconds
            seconds["queue"] += here.queue_seconds
            seconds["success"] += trace.seconds
        each_waited = {stage: requests * value for stage, value in seconds.items()}
        count, now = len(traces), int(1000 * self._now())
        self._whole[name].add(count * requests, count, count * samples, each_waited, now)
        if (name, samples) in self._by_size or len(self._by_size) < _MAX_SIZES:
            sized = self._by_size.setdefault((name, samples), _Counts())
            sized.add(count, count, count * samples, seconds, now)

    def refused(self, refused: Refused) -> None:
        """Failures are counted where the model is known."""

    def reply(self, name: str, version: str) -> Any:
        """ModelStatisticsResponse of one model; of all its versions, or all models, where those are empty."""
        if name:
            self._models.named(name, version)  # which says what there is
        reply = messages.ModelStatisticsResponse()
        for served in self._models:
            if (name or served.manifest.name, version or served.manifest.version) == (
                served.manifest.name,
                served.manifest.version,
            ):
                reply.model_stats.append(self._of(served))
        return reply

    def _of(self, served: Served) -> Any:
        manifest = served.manifest
        whole = self._whole[manifest.model_hash]
        sizes = sorted(size for name, size in self._by_size if name == manifest.model_hash)
        return messages.ModelStatistics(
            name=manifest.name,
            version=manifest.version,
            last_inference=whole.last_ms,
            inference_count=whole.samples,
            execution_count=whole.executions,
            inference_stats=messages.InferStatistics(
                fail=_duration(served.failed, served.failed_seconds),
                **{name: whole.duration(name) for name in ("success", "queue", *_STAGES)},
            ),
            batch_stats=[self._batch(manifest.model_hash, size) for size in sizes],
        )

    def _batch(self, model_hash: str, size: int) -> Any:
        counts = self._by_size[model_hash, size]
        return messages.InferBatchStatistics(batch_size=size, **{name: counts.duration(name) for name in _STAGES})


def _duration(count: int, seconds: float) -> Any:
    return messages.StatisticDuration(count=count, ns=int(1e9 * seconds))
