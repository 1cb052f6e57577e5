"""Calls by the convention of gRPC dashboards (go-grpc-prometheus): names, labels and Go's spelling of their values.

Counted on the event loop while a call is on its way, so in plain numbers: a counter of the client library takes a lock.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import grpc
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from services.domain import Clock
from services.metrics.table import SECONDS, Group, Series

Side = Literal["server", "client"]

_METHOD = ("grpc_type", "grpc_service", "grpc_method")
_GO_NAMES = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}


def _group(side: Side, whose: str) -> Group:
    calls = {
        "started": f"Calls {whose} started.",
        "handled": f"Calls {whose} completed, by status.",
        "msg_received": f"Messages received in calls {whose}.",
        "msg_sent": f"Messages sent in calls {whose}.",
    }
    counters = tuple(
        Series(
            f"grpc_{side}_{name}_total",
            "counter",
            (*_METHOD, *(("grpc_code",) if name == "handled" else ())),
            "messages" if name.startswith("msg") else "calls",
            sentence,
        )
        for name, sentence in calls.items()
    )
    seconds = Series(
        f"grpc_{side}_handling_seconds", "histogram", _METHOD, "seconds", f"Time of calls {whose}.", SECONDS
    )
    return Group(f"gRPC {side}", (*counters, seconds))


SERVER = _group("server", "to this tier")
CLIENT = _group("client", "to the tier above")


def go_name(code: grpc.StatusCode) -> str:
    """`NotFound` for NOT_FOUND: what dashboards filter by."""
    return _GO_NAMES.get(code) or code.name.title().replace("_", "")


@dataclass(slots=True)
class MethodCalls:
    """What became of the calls of one method; `buckets`: how many took how long, the last of them longer than all."""

    labels: tuple[str, str, str]
    started: int = 0
    received: int = 0
    sent: int = 0
    seconds: float = 0.0
    fine: int = 0
    codes: dict[grpc.StatusCode, int] = field(default_factory=lambda: dict.fromkeys(grpc.StatusCode, 0))
    buckets: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))

    def succeeded(self, seconds: float) -> None:
        self.fine += 1  # and not in `codes`: looking up a member of an enum there takes longer than all the rest
        self.seconds += seconds
        self.buckets[bisect_left(SECONDS, seconds)] += 1

    def handled(self, code: grpc.StatusCode, seconds: float) -> None:
        self.succeeded(seconds)
        self.fine -= 1
        self.codes[code] += 1

    def by_code(self) -> Iterator[tuple[str, int]]:
        """How many calls ended with each code, in Go's spelling."""
        for code, count in self.codes.items():
            yield go_name(code), count + (self.fine if code is grpc.StatusCode.OK else 0)


class Calls:
    """Counts the calls of one side of one process, and tells `registry` of them."""

    def __init__(self, side: Side, registry: CollectorRegistry, clock: Clock = time.perf_counter):
        self._group = SERVER if side == "server" else CLIENT
        self._methods: dict[str, MethodCalls] = {}
        self.clock = clock
        registry.register(self)

    def method(self, path: str, kind: str = "unary") -> MethodCalls:
        """The series of `/service/Method`. Only for methods that exist: each makes series of its own."""
        if path not in self._methods:
            service, _, name = path.removeprefix("/").rpartition("/")
            self._methods[path] = MethodCalls((kind, service, name))
        return self._methods[path]

    def collect(self) -> Iterator[Metric]:
        methods = list(self._methods.values())
        started, handled, received, sent, seconds = self._group.series
        yield _counter(started, {m.labels: m.started for m in methods})
        yield _counter(handled, {(*m.labels, code): count for m in methods for code, count in m.by_code()})
        yield _counter(received, {m.labels: m.received for m in methods})
        yield _counter(sent, {m.labels: m.sent for m in methods})
        spread = HistogramMetricFamily(seconds.name, seconds.sentence, labels=seconds.labels)
        for m in methods:
            bounds = zip((*map(str, seconds.buckets), "+Inf"), accumulate(m.buckets), strict=True)
            spread.add_metric(m.labels, list(bounds), m.seconds)
        yield spread


def _counter(series: Series, values: dict[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(series.name, series.sentence, labels=series.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family
