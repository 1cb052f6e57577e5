"""Every series of our own, in one table: the objects that count, and docs/metrics.md, are made from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

STAGES = ("queue", "decode", "compute", "encode", "network")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RATIOS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Series:
    """One metric. `live`: it is not counted up but read when Prometheus asks; what is unknown then is absent."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: str
    sentence: str
    buckets: tuple[float, ...] = ()
    live: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Series that answer one question."""

    title: str
    series: tuple[Series, ...]


def _counter(name: str, labels: str, unit: str, sentence: str, live: bool = False) -> Series:
    return Series(name, "counter", tuple(labels.split()), unit, sentence, live=live)


def _gauge(name: str, labels: str, unit: str, sentence: str, live: bool = False) -> Series:
    return Series(name, "gauge", tuple(labels.split()), unit, sentence, live=live)


def _histogram(
    name: str, labels: str, unit: str, sentence: str, buckets: tuple[float, ...], live: bool = False
) -> Series:
    return Series(name, "histogram", tuple(labels.split()), unit, sentence, buckets, live)


REQUESTS = Group(
    "Requests",
    (
        _counter(
            "offramp_requests_total",
            "tier model outcome",
            "requests",
            "Requests answered; `degraded`: with a sample whose answer is not the one the plan would have given.",
        ),
        _counter(
            "offramp_request_errors_total",
            "tier reason",
            "requests",
            "Calls that ended with an error, by the reason in its details.",
        ),
        _counter(
            "offramp_rejected_total",
            "tier reason",
            "requests",
            "Requests turned away at this tier's door before any work was done for them.",
            live=True,
        ),
        _histogram(
            "offramp_request_seconds",
            "tier model",
            "seconds",
            "How long this tier held a request that it answered, the tiers above included.",
            SECONDS,
        ),
        _counter("offramp_samples_total", "tier model", "samples", "Samples of the requests answered."),
        _histogram("offramp_batch_size", "tier model", "samples", "Samples of one request.", BATCHES),
        _counter(
            "offramp_degraded_total",
            "tier model reason",
            "samples",
            "Samples answered at this tier with an answer that is not the one the plan would have given.",
        ),
        _gauge("offramp_in_flight", "tier", "requests", "Requests held now, waiting ones included.", live=True),
        _gauge("offramp_tasks", "tier", "tasks", "Tasks of the event loop that have not ended.", live=True),
        _counter(
            "offramp_batches_total",
            "tier model segment",
            "batches",
            "Runs of a segment that samples of several requests shared.",
            live=True,
        ),
        _counter(
            "offramp_batched_runs_total",
            "tier model segment",
            "runs",
            "Runs that requests would have had to themselves, had they not shared those.",
            live=True,
        ),
        _gauge(
            "offramp_batch_pays",
            "tier model segment",
            "samples",
            "Samples of several requests that run as one batch, by what was measured; 1: a batch saves nothing here.",
            live=True,
        ),
        _gauge("offramp_queue_length", "tier", "runs", "Runs of a segment that wait for a worker now.", live=True),
    ),
)

EXITS = Group(
    "Early exits",
    (
        _counter(
            "offramp_exits_total",
            "tier model exit",
            "samples",
            "Samples answered at this tier, by exit; summed over the tiers, the samples that the device answered.",
        ),
        _histogram(
            "offramp_exit_confidence",
            "tier model exit",
            "ratio",
            "Confidence of the answers given at this tier.",
            TENTHS,
        ),
        _gauge(
            "offramp_expected_exit_ratio",
            "model exit",
            "ratio",
            "Share of all samples that should leave at this exit, by the calibration; absent without one.",
        ),
        _gauge(
            "offramp_exit_threshold",
            "model exit",
            "ratio",
            "Confidence that lets a sample leave at this exit, where its request names no other; 0 at the last one.",
        ),
        _gauge("offramp_calibrated_accuracy", "model", "ratio", "Accuracy at calibration, with early exits."),
        _gauge(
            "offramp_contract_accuracy_loss",
            "model",
            "ratio",
            "The most accuracy that the calibrated thresholds may cost: the accuracy contract's epsilon.",
        ),
    ),
)

TIME = Group(
    "Where time goes",
    (
        _counter(
            "offramp_stage_seconds_total",
            "tier model stage",
            "seconds",
            "Time of answered requests by stage, this tier's own part only; over all tiers the stages add up "
            "to what the device's requests took.",
        ),
        _histogram("offramp_queue_seconds", "tier model", "seconds", "Time one request waited for workers.", SECONDS),
        _histogram(
            "offramp_hop_seconds",
            "tier model",
            "seconds",
            "Time of a call to the tier above, less what the tiers above account for: the network's share.",
            SECONDS,
        ),
        _gauge(
            "offramp_slowdown",
            "tier model",
            "ratio",
            "What runs take lately over what was measured on the idle machine.",
            live=True,
        ),
        _counter(
            "offramp_energy_joules_total",
            "tier model",
            "joules",
            "Estimated energy of the device for its requests, from the powers in its settings; device only.",
        ),
        _gauge(
            "offramp_warmup_seconds",
            "tier model",
            "seconds",
            "Time it took to measure and warm the model at start; absent until it was.",
            live=True,
        ),
    ),
)

LINKS = Group(
    "Links",
    (
        _counter(
            "offramp_hop_bytes_total",
            "tier model direction",
            "bytes",
            "Moved to (`up`, activations) and from (`down`, whole replies) the tier above.",
        ),
        _counter("offramp_forwarded_samples_total", "tier model", "samples", "Samples that a tier above answered."),
        _gauge(
            "offramp_input_bytes",
            "model form",
            "bytes",
            "One sample of the input as a tensor, as pixels, and as each codec measured at split point 0 makes it.",
        ),
        _gauge("offramp_link_rtt_seconds", "tier", "seconds", "Believed round trip of the link above.", live=True),
        _gauge(
            "offramp_link_rate_bytes_per_second",
            "tier",
            "bytes per second",
            "Believed rate of the link above, upwards.",
            live=True,
        ),
        _gauge(
            "offramp_link_age_seconds", "tier", "seconds", "Since the link above was last heard to work.", live=True
        ),
        _gauge(
            "offramp_link_known",
            "tier",
            "0 or 1",
            "Whether RTT and rate of the link above are known; where one is not, its series is absent.",
            live=True,
        ),
        _gauge(
            "offramp_upstream_state",
            "tier upstream",
            "0, 1 or 2",
            "The way to a replica of the tier above: 0 open for calls, 1 being tried, 2 failing, and left alone.",
            live=True,
        ),
        _counter(
            "offramp_retries_total",
            "tier outcome",
            "requests",
            "Times that another replica of the tier above was wanted for a request: it `answered`, `failed` too, was "
            "`unneeded` as the first one answered meanwhile, or was not asked, `over_budget`.",
            live=True,
        ),
    ),
)

PLANS = Group(
    "Plans",
    (
        _gauge("offramp_plan_split", "model hop", "split point", "Where the plan last used crosses each hop."),
        _counter(
            "offramp_split_decisions_total",
            "model split_1 split_2",
            "requests",
            "Requests of the device by the split points of their plan; beyond 256 pairs, `other`.",
        ),
        _counter("offramp_plan_changes_total", "model", "changes", "Plans replaced by a better one.", live=True),
        _counter("offramp_planned_requests_total", "model", "requests", "Requests whose plan said what to expect."),
        _counter("offramp_predicted_seconds_total", "model", "seconds", "What their plans expected of them, added up."),
        _counter("offramp_realised_seconds_total", "model", "seconds", "What they took, added up."),
        _histogram(
            "offramp_prediction_ratio", "model", "ratio", "What a request took over what its plan expected.", RATIOS
        ),
        _gauge(
            "offramp_regret_seconds",
            "model",
            "seconds",
            "Expected time of the plan in force less that of the best plan, as far as is believed now.",
            live=True,
        ),
    ),
)

ABOUT = Group(
    "What runs",
    (
        _gauge("offramp_model_info", "tier model version sha256", "1", "A model that is served here."),
        _counter(
            "offramp_bundle_reloads_total",
            "tier outcome",
            "reloads",
            "Times that bundles were read again, at SIGHUP: new ones were `loaded`, all were `unchanged`, or what was "
            "found was `refused`, and nothing changed.",
        ),
        _gauge("offramp_build_info", "version", "1", "The release of Offramp."),
    ),
)

RELOADS = ("loaded", "unchanged", "refused")
"""How reading bundles again can end."""

GROUPS = (REQUESTS, EXITS, TIME, LINKS, PLANS, ABOUT)

DEVICE_ONLY = frozenset({"offramp_energy_joules_total", *(each.name for each in PLANS.series)})


def series() -> Iterator[Series]:
    """All of them, in the order of the page."""
    for group in GROUPS:
        yield from group.series
