"""Spans of what requests did, sent to an OpenTelemetry collector: an observer of how requests end.

Each tier tells of its own part: a span for as long as it held the request, and one for each stage of its `Trace`. A
stage is a sum of what may have been in pieces; its span is as long as the sum, and stands where most of it was. The
call above is the exception: `network` lasts as long as the call, so that the tier above, whose span is its child, lies
within. Imported only where spans are sent: the libraries are an extra.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from services import trace_context
from services.domain import Tier
from services.observing import Finished, Refused
from services.response import HopTrace
from services.trace_context import Parent, span_id

Attributes = dict[str, str | int | float | bool]

_ORDER = ("decode", "queue", "compute", "encode")
_WHOLE = "infer"
_EXPORT_SECONDS = 5
_FLUSH_MILLISECONDS = 2000


@dataclass(frozen=True, slots=True)
class _Stage:
    """One stage of a hop, in nanoseconds from the start of the request here."""

    name: str
    start: int
    end: int
    kind: SpanKind = SpanKind.INTERNAL


class Spans:
    """Makes the spans of this tier's part of every traced request, and hands them to `processor`."""

    def __init__(self, tier: Tier, processor: SpanProcessor):
        self._processor = processor
        version = metadata.version("offramp")
        names = {"service.namespace": "offramp", "service.name": f"offramp-{tier.label}", "service.version": version}
        self._resource = Resource.create(names)
        self._scope = InstrumentationScope("offramp", version)

    def answered(self, finished: Finished) -> None:
        parent = trace_context.parse(finished.traceparent)
        if parent is None or not parent.sampled:
            return
        start = finished.at - _nanoseconds(finished.response.trace.seconds)
        for span in self._spans(finished, parent, start):
            self._processor.on_end(span)

    def refused(self, refused: Refused) -> None:
        """Errors have a log line and a series; a request that failed has no times to tell."""

    def close(self) -> None:
        """Sends what waits, for a few seconds at most. Blocks."""
        self._processor.force_flush(_FLUSH_MILLISECONDS)
        self._processor.shutdown()

    def _spans(self, finished: Finished, parent: Parent, start: int) -> Iterator[ReadableSpan]:
        trace, tier = finished.response.trace, finished.tier
        flags = TraceFlags(TraceFlags.SAMPLED)

        def context(name: str) -> SpanContext:
            ours = span_id(finished.traceparent, finished.request_id, tier, name)
            return SpanContext(parent.trace_id, ours, is_remote=False, trace_flags=flags)

        def span(name: str, under: SpanContext | None, stage: _Stage, attributes: Attributes) -> ReadableSpan:
            return ReadableSpan(
                name,
                context(stage.name),
                under,
                self._resource,
                attributes,
                kind=stage.kind,
                status=Status(StatusCode.UNSET),
                start_time=start + stage.start,
                end_time=start + stage.end,
                instrumentation_scope=self._scope,
            )

        caller = SpanContext(parent.trace_id, parent.span_id, is_remote=True, trace_flags=flags)
        whole = _Stage(_WHOLE, 0, _nanoseconds(trace.seconds), SpanKind.SERVER)
        name = f"{tier.label} {finished.manifest.name}"
        yield span(name, caller if parent.span_id else None, whole, _whole(finished))
        hop = trace.hops[0]
        for stage in _stages(hop, trace.seconds - hop.seconds):
            yield span(stage.name, context(_WHOLE), stage, _of_stage(hop, stage.name))


def sending(tier: Tier, endpoint: str) -> Spans:
    """Spans that go to the collector at `endpoint` in the background, as many as it takes; the rest is dropped."""
    exporter = OTLPSpanExporter(endpoint, insecure=not endpoint.startswith("https://"), timeout=_EXPORT_SECONDS)
    return Spans(tier, BatchSpanProcessor(exporter))


def _stages(hop: HopTrace, above_seconds: float) -> Iterator[_Stage]:
    """In the order in which most of them happen; `network` encloses what the tiers above account for."""
    at = 0
    for name in _ORDER:
        length = _nanoseconds(getattr(hop, f"{name}_seconds"))
        yield _Stage(name, at, at + length)
        at += length
    if hop.network_seconds or above_seconds:
        yield _Stage("network", at, at + _nanoseconds(hop.network_seconds + above_seconds), SpanKind.CLIENT)


def _whole(finished: Finished) -> Attributes:
    answers = finished.response.predictions
    found: Attributes = {
        "offramp.request_id": finished.request_id,
        "offramp.model": finished.manifest.name,
        "offramp.model_version": finished.manifest.version,
        "offramp.plan": str(finished.plan),
        "offramp.samples": len(answers),
        "offramp.answered_here": int(np.count_nonzero(answers.tiers == int(finished.tier))),
        "offramp.degraded": int(np.count_nonzero(answers.reasons)),
    }
    expected = finished.plan.expected_seconds
    return found if expected is None else found | {"offramp.expected_seconds": expected}


def _of_stage(hop: HopTrace, name: str) -> Attributes:
    if name != "network":
        return {}
    return {
        "offramp.network_seconds": hop.network_seconds,
        "offramp.bytes_up": hop.bytes_up,
        "offramp.bytes_down": hop.bytes_down,
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
