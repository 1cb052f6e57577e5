"""Statistics of each model as Triton tells them, counted from every request that this tier answered.

All but the whole of a request is this tier's own time; nothing is gathered into batches here, so that a request is
one execution.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services.observing import Finished, Refused
from services.open_inference import messages
from services.serving import Models, Served

_MAX_SIZES = 1024
_STAGES = {"compute_input": "decode", "compute_infer": "compute", "compute_output": "encode"}


@dataclass(slots=True)
class _Counts:
    """How many, and seconds by name."""

    count: int = 0
    samples: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    last_ms: int = 0

    def add(self, samples: int, seconds: dict[str, float], now_ms: int) -> None:
        self.count += 1
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
        self._whole = {each.manifest.model_hash: _Counts() for each in models}
        self._by_size: dict[tuple[str, int], _Counts] = {}

    def answered(self, finished: Finished) -> None:
        name, samples = finished.manifest.model_hash, len(finished.response.predictions)
        here = finished.response.trace.hops[0]
        seconds = {shown: getattr(here, f"{stage}_seconds") for shown, stage in (*_STAGES.items(), ("queue", "queue"))}
        seconds["success"] = finished.response.trace.seconds
        counted = [self._whole[name]]
        if (name, samples) in self._by_size or len(self._by_size) < _MAX_SIZES:
            counted.append(self._by_size.setdefault((name, samples), _Counts()))
        for each in counted:
            each.add(samples, seconds, int(1000 * self._now()))

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
            execution_count=whole.count,
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
