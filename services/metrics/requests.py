"""Counts what each request did once its answer has left: an observer of how requests end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, disable_created_metrics

from services.bundle import Manifest
from services.domain import DegradedReason, Plan, Tier
from services.errors import BundleError, InternalError, OfframpError, SettingsError
from services.metrics.about import calibrated_shares, input_forms
from services.metrics.counted import Count, Counted, Counts
from services.metrics.live import Live
from services.metrics.table import RELOADS, STAGES
from services.observing import Finished, Refused
from services.response import HopTrace, Predictions

MAX_PLANS = 256
OTHER = "other"
_REASONS = tuple(reason for reason in DegradedReason if reason is not DegradedReason.NONE)


@dataclass(frozen=True, slots=True)
class Power:
    """What the device's energy is estimated from: watts while it computes and while it waits, joules to send a byte."""

    active_watts: float = 0.0
    idle_watts: float = 0.0
    joules_per_byte: float = 0.0

    def joules(self, hop: HopTrace, seconds: float) -> float:
        """Of a request that took `seconds`, of which `hop` were spent here; reckoned as the planner does."""
        busy = hop.compute_seconds + hop.encode_seconds
        more = (self.active_watts - self.idle_watts) * busy
        return self.idle_watts * seconds + more + self.joules_per_byte * hop.bytes_up


class Metrics:
    """The counters of one process in a registry of its own; told of requests as an observer."""

    def __init__(self, tier: Tier, version: str, power: Power | None = None):
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each would say nothing that is wanted
        self.tier = tier
        self.registry = CollectorRegistry()
        self.live = Live()
        self._power = power or Power()
        self._counted = Counted(tier)
        self._models: dict[tuple[str, str], _OfModel] = {}
        self._errors: dict[str, Count] = {}
        for reason in reasons():
            self._error(reason)
        self._counted.gauge("offramp_build_info", version).set(1)
        self.reloads = {
            outcome: self._counted.counter("offramp_bundle_reloads_total", tier.label, outcome) for outcome in RELOADS
        }
        self.registry.register(self.live)  # first: it has observers told of all that ended before the rest is read
        self.registry.register(self._counted)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def serve(self, manifest: Manifest) -> None:
        """From now on this model has series: those known in advance start at 0."""
        self._model(manifest)

    def answered(self, finished: Finished) -> None:
        self.answered_together((finished,))

    def answered_together(self, finished: Sequence[Finished]) -> None:
        """Each model's at once: what is the same for each request is then done once."""
        of_models: dict[tuple[str, str], list[Finished]] = {}
        for each in finished:
            of_models.setdefault((each.manifest.name, each.manifest.version), []).append(each)
        for ended in of_models.values():
            self._model(ended[0].manifest).count(ended)

    def refused(self, refused: Refused) -> None:
        self.turned_away(refused.reason)

    def turned_away(self, reason: str) -> None:
        """Unread or not: each is a call that ended with an error."""
        known = reason in self._errors or reason in reasons()
        self._error(reason if known else InternalError.reason).inc()

    def _error(self, reason: str) -> Count:
        if reason not in self._errors:
            self._errors[reason] = self._counted.counter("offramp_request_errors_total", self.tier.label, reason)
        return self._errors[reason]

    def _model(self, manifest: Manifest) -> _OfModel:
        key = (manifest.name, manifest.version)
        if key not in self._models:
            self._models[key] = _OfModel.of(self.tier, manifest, self._counted, self._power)
        return self._models[key]


def reasons(kind: type[OfframpError] = OfframpError) -> Iterator[str]:
    """Every reason that a call can end with."""
    if kind not in (BundleError, SettingsError):  # those end the process
        yield kind.reason
        for each in kind.__subclasses__():
            yield from reasons(each)


@dataclass(frozen=True, slots=True)
class _OfPlans:
    """How the device's plans fared."""

    name: str
    counted: Counted
    hops: tuple[Count, Count]
    planned: Count
    predicted: Count
    realised: Count
    ratio: Counts
    pairs: dict[tuple[int, int], Count] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, counted: Counted) -> _OfPlans:
        return cls(
            name,
            counted,
            (
                counted.gauge("offramp_plan_split", name, "device_edge"),
                counted.gauge("offramp_plan_split", name, "edge_cloud"),
            ),
            counted.counter("offramp_planned_requests_total", name),
            counted.counter("offramp_predicted_seconds_total", name),
            counted.counter("offramp_realised_seconds_total", name),
            counted.histogram("offramp_prediction_ratio", name),
        )

    def count(self, plan: Plan, seconds: float) -> None:
        splits = _splits(plan)
        for gauge, split in zip(self.hops, splits, strict=True):
            gauge.set(split)
        (self.pairs.get(splits) or self._pair(splits)).inc()
        if plan.expected_seconds:
            self.planned.inc()
            self.predicted.inc(plan.expected_seconds)
            self.realised.inc(seconds)
            self.ratio.observe(seconds / plan.expected_seconds)

    def _pair(self, splits: tuple[int, int]) -> Count:
        """Callers may ask for any split; they must not make any number of series."""
        if len(self.pairs) >= MAX_PLANS:
            return self.counted.counter("offramp_split_decisions_total", self.name, OTHER, OTHER)
        labels = map(str, splits)
        self.pairs[splits] = self.counted.counter("offramp_split_decisions_total", self.name, *labels)
        return self.pairs[splits]


def _splits(plan: Plan) -> tuple[int, int]:
    """Where the plan leaves the device and the edge; a tier that it passes by is left where it is entered."""
    last = plan.stages[-1].segment.end
    device, edge = plan.stage(Tier.DEVICE), plan.stage(Tier.EDGE)
    first = device.segment.end if device else 0
    return first, edge.segment.end if edge else (first if plan.stage(Tier.CLOUD) else last)


@dataclass(frozen=True, slots=True)
class _OfModel:
    """The series of one model, each looked up once."""

    tier: Tier
    power: Power
    ok: Count
    degraded: Count
    seconds: Counts
    samples: Count
    batch: Counts
    exits: tuple[Count, ...]
    confidences: tuple[Counts, ...]
    stages: tuple[Count, ...]
    queue: Counts
    hop: Counts
    up: Count
    down: Count
    forwarded: Count
    reasons: tuple[Count, ...]
    joules: Count | None
    plans: _OfPlans | None

    @classmethod
    def of(cls, tier: Tier, manifest: Manifest, counted: Counted, power: Power) -> _OfModel:
        name, here, device = manifest.name, (tier.label, manifest.name), tier is Tier.DEVICE
        _describe(tier, manifest, counted)
        return cls(
            tier,
            power,
            counted.counter("offramp_requests_total", *here, "ok"),
            counted.counter("offramp_requests_total", *here, "degraded"),
            counted.histogram("offramp_request_seconds", *here),
            counted.counter("offramp_samples_total", *here),
            counted.histogram("offramp_batch_size", *here),
            tuple(counted.counter("offramp_exits_total", *here, spec.name) for spec in manifest.exits),
            tuple(counted.histogram("offramp_exit_confidence", *here, spec.name) for spec in manifest.exits),
            tuple(counted.counter("offramp_stage_seconds_total", *here, stage) for stage in STAGES),
            counted.histogram("offramp_queue_seconds", *here),
            counted.histogram("offramp_hop_seconds", *here),
            counted.counter("offramp_hop_bytes_total", *here, "up"),
            counted.counter("offramp_hop_bytes_total", *here, "down"),
            counted.counter("offramp_forwarded_samples_total", *here),
            tuple(counted.counter("offramp_degraded_total", *here, reason.label) for reason in _REASONS),
            counted.counter("offramp_energy_joules_total", *here) if device else None,
            _OfPlans.of(name, counted) if device else None,
        )

    def count(self, ended: Sequence[Finished]) -> None:
        self._count_samples([(each.response.predictions, each.requests) for each in ended])
        for each in ended:
            trace, requests = each.response.trace, each.requests
            hop, seconds = trace.hops[0], trace.seconds
            self._count_time(hop, seconds, requests)
            if self.joules is not None:
                self.joules.inc(self.power.joules(hop, seconds))
            if self.plans is not None:
                self.plans.count(each.plan, seconds)

    def _count_samples(self, ended: Sequence[tuple[Predictions, int]]) -> None:
        """In one pass over plain numbers: of one sample, which is what most requests have, numpy would be slower."""
        by_exit, by_reason = [0] * len(self.exits), [0] * (len(self.reasons) + 1)
        forwarded, here = 0, int(self.tier)
        for answers, requests in ended:
            reasons = answers.reasons.tolist()
            (self.degraded if any(reasons) else self.ok).inc(requests)
            self.samples.inc(len(reasons))
            self.batch.observe(len(reasons) / requests, requests)
            columns = (answers.tiers.tolist(), answers.exits.tolist(), answers.confidences.tolist(), reasons)
            for tier, exit_index, confidence, reason in zip(*columns, strict=True):
                if tier == here:
                    by_exit[exit_index] += 1
                    by_reason[reason] += 1
                    self.confidences[exit_index].observe(confidence)
                else:
                    forwarded += 1
        self.forwarded.inc(forwarded)
        _inc(self.exits, by_exit)
        _inc(self.reasons, by_reason[1:])

    def _count_time(self, hop: HopTrace, seconds: float, requests: int) -> None:
        """Each of requests that travelled as one took the time that all took."""
        self.seconds.observe(seconds, requests)
        self.queue.observe(hop.queue_seconds, requests)
        queue, decode, compute, encode, network = self.stages
        queue.value += hop.queue_seconds * requests
        decode.value += hop.decode_seconds * requests
        compute.value += hop.compute_seconds * requests
        encode.value += hop.encode_seconds * requests
        network.value += hop.network_seconds * requests
        if hop.bytes_up or hop.bytes_down:
            self.hop.observe(hop.network_seconds, requests)
            self.up.inc(hop.bytes_up)
            self.down.inc(hop.bytes_down)


def _inc(counters: tuple[Count, ...], counts: list[int]) -> None:
    for counter, count in zip(counters, counts, strict=True):
        if count:
            counter.inc(count)


def _describe(tier: Tier, manifest: Manifest, counted: Counted) -> None:
    """What does not change while a model is served."""
    name = manifest.name
    counted.gauge("offramp_model_info", tier.label, name, manifest.version, manifest.model_hash).set(1)
    for form, size in input_forms(manifest):
        counted.gauge("offramp_input_bytes", name, form).set(size)
    for exit_name, share in calibrated_shares(manifest):
        counted.gauge("offramp_expected_exit_ratio", name, exit_name).set(share)
    for spec in manifest.exits:
        last = spec.split_point == manifest.last
        counted.gauge("offramp_exit_threshold", name, spec.name).set(0 if last else spec.threshold)
    if manifest.calibration is not None:
        counted.gauge("offramp_calibrated_accuracy", name).set(manifest.calibration.accuracy)
        counted.gauge("offramp_contract_accuracy_loss", name).set(manifest.calibration.epsilon)
