"""Spans of three real tiers, kept in memory: one trace over all hops, with the times of the request's `Trace`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from services import bundle, tracing
from services.domain import Tier
from services.open_inference import messages
from services.tracing import Spans
from tests.calls import DOOR, HEALTH, PATIENCE, asking, calling
from tests.finished import finished
from tests.networks import SHAPE
from tests.tiers import ThreeTiers, device, upper

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STAGES = {"decode", "queue", "compute", "encode"}
RECORDS = {"otlp_endpoint": "http://127.0.0.1:1"}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Where the spans of tiers in this process go, in place of a collector."""
    kept = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "sending", lambda tier, endpoint: Spans(tier, SimpleSpanProcessor(kept)))
    return kept


@asynccontextmanager
async def tiers(path: Path, *quiet: Tier, transport: str = "exchange") -> AsyncIterator[ThreeTiers]:
    """Three tiers that record spans, except `quiet` ones."""

    def given(tier: Tier) -> dict[str, Any]:
        return {"transport": transport} | ({} if tier in quiet else RECORDS)

    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(upper(Tier.CLOUD, path, **given(Tier.CLOUD)))
        edge = await stack.enter_async_context(upper(Tier.EDGE, path, cloud.address, **given(Tier.EDGE)))
        front = await stack.enter_async_context(device(path, edge.address, **given(Tier.DEVICE)))
        yield ThreeTiers(front, edge, cloud)


async def ask(address: str, traceparent: str = "", request_id: str = "r1") -> dict[str, Any]:
    """Has 20 samples answered, some by each tier; returns the Trace."""
    pixels = np.random.default_rng(5).integers(0, 256, (20, *SHAPE[1:], 1), dtype=np.uint8)
    request = asking(pixels, id=request_id)
    request.parameters["trace"].bool_param = True
    async with grpc.aio.insecure_channel(address) as channel:
        method = channel.unary_unary(
            f"/{DOOR}/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=messages.ModelInferResponse.FromString,
        )
        metadata = (("traceparent", traceparent),) if traceparent else ()
        reply = await method(request, timeout=PATIENCE, metadata=metadata)
    found: dict[str, Any] = json.loads(reply.parameters["trace"].string_param)
    return found


def told(running: ThreeTiers, recorded: InMemorySpanExporter) -> tuple[ReadableSpan, ...]:
    """The spans of all requests that ended."""
    for tier in (running.device, running.edge, running.cloud):
        tier.telemetry.observers.tell()
    return recorded.get_finished_spans()


def wholes(spans: tuple[ReadableSpan, ...]) -> dict[str, ReadableSpan]:
    """The span of each tier's whole part, by tier."""
    return {span.name.split(" ")[0]: span for span in spans if span.kind is SpanKind.SERVER}


def child(spans: tuple[ReadableSpan, ...], parent: ReadableSpan, name: str) -> ReadableSpan:
    (found,) = (s for s in spans if s.parent and s.parent.span_id == parent.context.span_id and s.name == name)
    return found


@pytest.mark.parametrize("transport", ["exchange", "unary"])
async def test_the_spans_of_all_tiers_are_one_trace_under_the_callers_own(
    tiny: Path, recorded: InMemorySpanExporter, transport: str
) -> None:
    async with tiers(tiny, transport=transport) as running:
        await ask(running.device.address)  # connects, so that the second goes over the transport asked for
        told(running, recorded)
        recorded.clear()
        await ask(running.device.address, f"00-{TRACE}-{CALLER}-01")
        spans = told(running, recorded)
    assert {span.context.trace_id for span in spans} == {int(TRACE, 16)}
    assert len({span.context.span_id for span in spans}) == len(spans)
    whole = wholes(spans)
    assert set(whole) == {"device", "edge", "cloud"}
    assert whole["device"].parent is not None
    assert whole["device"].parent.span_id == int(CALLER, 16)
    for lower, above in (("device", "edge"), ("edge", "cloud")):
        hop = child(spans, whole[lower], "network")
        assert whole[above].parent is not None
        assert whole[above].parent.span_id == hop.context.span_id
        assert hop.kind is SpanKind.CLIENT


async def test_spans_are_as_long_as_the_trace_says(tiny: Path, recorded: InMemorySpanExporter) -> None:
    async with tiers(tiny) as running:
        trace = await ask(running.device.address)
        spans = told(running, recorded)
    whole = wholes(spans)
    for hop in trace["hops"]:
        ours = whole[hop["tier"]]
        for stage in STAGES:
            span = child(spans, ours, stage)
            assert (span.end_time - span.start_time) / 1e9 == pytest.approx(hop[f"{stage}_seconds"], abs=1e-8)
            assert ours.start_time <= span.start_time <= span.end_time <= ours.end_time
    assert (whole["device"].end_time - whole["device"].start_time) / 1e9 == pytest.approx(trace["seconds"], abs=1e-8)
    hop = child(spans, whole["device"], "network")
    above = sum(sum(v for k, v in each.items() if k.endswith("_seconds")) for each in trace["hops"][1:])
    expected = trace["hops"][0]["network_seconds"] + above
    assert (hop.end_time - hop.start_time) / 1e9 == pytest.approx(expected, abs=1e-8)


async def test_a_request_without_a_context_begins_a_trace_of_its_own(
    tiny: Path, recorded: InMemorySpanExporter
) -> None:
    async with tiers(tiny) as running:
        for _ in range(2):
            await ask(running.device.address)
        spans = told(running, recorded)
    roots = [span for span in spans if span.parent is None]
    assert [span.name for span in roots] == ["device tiny"] * 2
    assert len({span.context.trace_id for span in spans}) == 2


async def test_a_tier_that_does_not_record_does_not_break_the_trace(tiny: Path, recorded: InMemorySpanExporter) -> None:
    async with tiers(tiny, Tier.EDGE) as running:
        await ask(running.device.address, f"00-{TRACE}-{CALLER}-01")
        spans = told(running, recorded)
    whole = wholes(spans)
    assert set(whole) == {"device", "cloud"}
    assert whole["cloud"].parent is not None
    assert whole["cloud"].parent.span_id == child(spans, whole["device"], "network").context.span_id


async def test_what_the_caller_does_not_record_nobody_does(tiny: Path, recorded: InMemorySpanExporter) -> None:
    async with tiers(tiny) as running:
        await ask(running.device.address, f"00-{TRACE}-{CALLER}-00")
    assert not recorded.get_finished_spans()


async def test_health_checks_and_metadata_make_no_spans(tiny: Path, recorded: InMemorySpanExporter) -> None:
    async with tiers(tiny) as running, calling(running.device.address) as call:
        await call(f"{HEALTH}/Check", b"")
        await call(f"{DOOR}/ServerReady", b"")
        await call(f"{DOOR}/ModelMetadata", messages.ModelMetadataRequest(name="tiny"))
    assert not recorded.get_finished_spans()


async def test_a_span_tells_what_became_of_its_request(tiny: Path, recorded: InMemorySpanExporter) -> None:
    async with tiers(tiny) as running:
        await ask(running.device.address, request_id="mine")
        spans = told(running, recorded)
    found = dict(wholes(spans)["device"].attributes or {})
    here = found.pop("offramp.answered_here")
    assert isinstance(here, int)
    assert 0 < here < 20
    assert found == {
        "offramp.request_id": "mine",
        "offramp.model": "tiny",
        "offramp.model_version": "1",
        "offramp.plan": "device 0:2 > edge 2:4 int8+zstd > cloud 4:8 int8+zstd",
        "offramp.samples": 20,
        "offramp.degraded": 0,
    }


LOADS: list[tuple[str, Callable[[str], bool]]] = [
    ("import services.telemetry, device_agent.__main__", lambda found: found == ""),
    ("import services.tracing", lambda found: "opentelemetry" in found),
]


@pytest.mark.parametrize(("statement", "fits"), LOADS)
def test_the_libraries_are_loaded_only_where_spans_are_sent(statement: str, fits: Callable[[str], bool]) -> None:
    code = f"{statement}; import sys; print(*sorted(m for m in sys.modules if m.startswith('opentelemetry')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fits(done.stdout.strip())


async def test_spans_reach_a_collector_over_otlp(tiny: Path) -> None:
    async with collector() as (address, received):
        records = {"otlp_endpoint": f"http://{address}"}
        async with (
            upper(Tier.CLOUD, tiny) as cloud,
            upper(Tier.EDGE, tiny, cloud.address, **records) as edge,
            device(tiny, edge.address) as front,
        ):
            await ask(front.address, f"00-{TRACE}-{CALLER}-01")
    spans = [span for each in received for r in each.resource_spans for s in r.scope_spans for span in s.spans]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    assert {span.name for span in spans} == {"edge tiny", "network", *STAGES}
    (resource,) = {r.resource.SerializeToString() for each in received for r in each.resource_spans}
    assert b"offramp-edge" in resource


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[Any]]]:
    """An OTLP collector that keeps what it is sent."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

    received: list[Any] = []

    async def export(request: Any, context: object) -> Any:
        received.append(request)
        return otlp.ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export, otlp.ExportTraceServiceRequest.FromString, lambda reply: reply.SerializeToString()
    )
    server = grpc.aio.server()
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", received
    await server.stop(None)


async def test_a_collector_that_is_not_there_neither_fails_nor_holds_up_a_tier(tiny: Path) -> None:
    async with tiers(tiny) as running:
        await ask(running.device.address)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 30


def test_a_request_ends_when_it_ended_however_late_its_observers_hear_of_it(tiny: Path) -> None:
    kept = InMemorySpanExporter()
    late = finished(bundle.load(tiny).manifest)._replace(at=5_000_000_000, traceparent=f"00-{TRACE}-{CALLER}-01")
    Spans(Tier.DEVICE, SimpleSpanProcessor(kept)).answered(late)
    whole = max(kept.get_finished_spans(), key=lambda span: (span.end_time or 0) - (span.start_time or 0))
    assert whole.end_time == late.at
    assert whole.start_time == pytest.approx(late.at - 1e9 * late.response.trace.seconds, abs=1000)
