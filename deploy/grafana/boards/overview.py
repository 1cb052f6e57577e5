"""Overview: is it well, how fast is it, and where do answers come from?"""

from __future__ import annotations

from deploy.grafana.boards.board import Board, Row
from deploy.grafana.boards.panels import About, Query, events, lines, number, rows, share, stack, states
from deploy.grafana.boards.promql import DOOR, HERE, JOB, MODEL, TIER, latest, portions, quantile, rate, ratio, total

CALLERS = (
    'reason!~"INVALID_INPUT|CORRUPT_PAYLOAD|NOT_CARRIED|MODEL_NOT_FOUND|TOO_LARGE|UNIMPLEMENTED|'
    'UNAUTHENTICATED|PERMISSION_DENIED"'
)
"""Without what only the caller can put right, as in the recording rules."""
REQUESTS, ERRORS, SECONDS = "offramp_requests_total", "offramp_request_errors_total", "offramp_request_seconds"


def _failing(labels: str, by: str = "") -> str:
    """Faults of ours over all calls. A tier that only fails has no series of answered requests."""
    errors = rate(ERRORS, labels, by)
    answered = f"({rate(REQUESTS, labels, by)} or 0 * {errors})"
    return ratio(rate(ERRORS, f"{labels}, {CALLERS}", by), f"({errors} + {answered})")


NOW = Row(
    "Now, as callers see it",
    (
        number(
            About("Requests", "Requests that the device answers, per second.", "reqps", 4, 5),
            Query(rate(REQUESTS, DOOR)),
        ),
        number(
            About("Median latency", "Half of the requests take no longer, from the device's door on.", "s", 4, 5),
            Query(quantile(0.5, SECONDS, DOOR)),
        ),
        number(
            About(
                "99th percentile", "One request in a hundred takes longer. HighLatencyP99 fires above 1 s.", "s", 4, 5
            ),
            Query(quantile(0.99, SECONDS, DOOR)),
            amber_above=0.5,
            red_above=1,
        ),
        number(
            About(
                "Errors",
                "Share of calls that fail through no fault of the caller. HighErrorRatio fires above 5 %.",
                "percentunit",
                4,
                5,
            ),
            Query(_failing('tier="device"')),
            amber_above=0.001,
            red_above=0.05,
        ),
        number(
            About(
                "Degraded",
                "Share of requests with an answer that is not the one their plan would have given.",
                "percentunit",
                4,
                5,
            ),
            Query(ratio(rate(REQUESTS, f'{DOOR}, outcome="degraded"'), rate(REQUESTS, DOOR))),
            amber_above=0.001,
            red_above=0.05,
        ),
        number(
            About("Alerts", "Alerts that fire now; docs/runbook.md has a section for each.", "short", 4, 5),
            Query('count(ALERTS{alertstate="firing"}) or vector(0)'),
            red_above=1,
        ),
    ),
)

BY_TIER = Row(
    "By tier",
    (
        lines(
            About(
                "Requests by tier",
                "Requests answered at each tier; what goes up is counted at each it passes.",
                "reqps",
                8,
            ),
            Query(rate(REQUESTS, HERE, "tier"), "{{tier}}"),
        ),
        lines(
            About("Median latency by tier", "How long each tier holds a request, the tiers above it included.", "s", 8),
            Query(quantile(0.5, SECONDS, HERE, "tier"), "{{tier}}"),
        ),
        lines(
            About("99th percentile by tier", "The slowest request in a hundred at each tier.", "s", 8),
            Query(quantile(0.99, SECONDS, HERE, "tier"), "{{tier}}"),
        ),
        lines(
            About("Error ratio by tier", "Share of calls that fail through no fault of the caller.", "percentunit", 8),
            Query(_failing(TIER, "tier"), "{{tier}}"),
        ),
        events(
            About(
                "Errors by reason",
                "Calls that end with an error, a caller's mistakes included.",
                "reqps",
                8,
                none="none",
            ),
            Query(f"{rate(ERRORS, TIER, 'tier, reason')} > 0", "{{tier}} {{reason}}"),
        ),
        states(
            About("Tiers", "Whether each tier answers Prometheus.", "short", 8),
            Query(f"up{{{JOB}}}", "{{job}}"),
            {0: ("down", "red"), 1: ("up", "green")},
        ),
    ),
)

ANSWERS = Row(
    "Where answers come from",
    (
        stack(
            About("Answers by tier", "Share of samples that each tier answers, over time.", "percentunit", 10),
            Query(portions(rate("offramp_exits_total", MODEL, "tier"), rate("offramp_exits_total", MODEL)), "{{tier}}"),
        ),
        share(
            About("Answers by tier, whole time", "The same over all the time that the board shows.", "short", 6),
            Query(total("offramp_exits_total", MODEL, "tier"), "{{tier}}"),
        ),
        events(
            About(
                "Degraded answers by reason",
                "Samples with another answer than the plan would have given, at the tier that gave it and why.",
                "ops",
                8,
                none="none",
            ),
            Query(f"{rate('offramp_degraded_total', HERE, 'tier, reason')} > 0", "{{tier}} {{reason}}"),
        ),
        rows(
            About(
                "What is served",
                "Each model, its version and the hash of its network. All tiers must agree.",
                "short",
                24,
                6,
            ),
            Query(latest("offramp_model_info", HERE, "tier, model, version, sha256")),
        ),
    ),
)

BOARD = Board(
    "overview",
    "Overview",
    "Is it well, how fast is it, and where do answers come from?",
    (NOW, BY_TIER, ANSWERS),
)
