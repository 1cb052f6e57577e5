"""Why is it slow: what a request's time goes on, tier by tier and stage by stage, then what is behind each."""

from __future__ import annotations

from deploy.grafana.boards.board import Board, Row
from deploy.grafana.boards.panels import HUES, SHADES, About, Query, bars, lines, number, shaded, stack
from deploy.grafana.boards.promql import DOOR, HERE, MODEL, TIER, latest, mean, portions, quantile, rate, ratio, total

STAGE, REQUESTS = "offramp_stage_seconds_total", "offramp_requests_total"


def _of_a_request(tier: str) -> str:
    """Seconds that one request of the device spends in each stage of `tier`, whether it gets there or not."""
    return portions(rate(STAGE, f'{MODEL}, tier="{tier}"', "tier, stage"), rate(REQUESTS, DOOR))


def _over_all(tier: str, stage: str) -> str:
    seconds = total(STAGE, f'{MODEL}, tier="{tier}", stage="{stage}"')
    return ratio(seconds, total(REQUESTS, DOOR))


WATERFALL = Row(
    "The waterfall",
    (
        shaded(
            stack(
                About(
                    "Where the time of a request goes",
                    "Mean time of one request of the device, split into what each tier and each way between them "
                    "took. The parts add up to what the device held it. A color is a tier, a shade a stage.",
                    "s",
                    16,
                    12,
                ),
                *(Query(_of_a_request(tier), "{{tier}} {{stage}}") for tier in HUES),
            )
        ),
        shaded(
            bars(
                About(
                    "Over the whole time shown", "Mean seconds of one request, in the order of its journey.", "s", 8, 12
                ),
                *(Query(_over_all(tier, stage), f"{tier} {stage}") for tier in HUES for stage in SHADES),
            )
        ),
    ),
)

PARTS = Row(
    "Which part, and since when",
    (
        number(
            About(
                "Most of the time goes on",
                "The stage with the largest part of the requests' time.",
                "percentunit",
                6,
                6,
            ),
            Query(
                f"topk(1, {portions(rate(STAGE, MODEL, 'tier, stage'), rate(STAGE, MODEL))})",
                "{{tier}} {{stage}}",
            ),
            named=True,
        ),
        number(
            About(
                "Slowest tier against idle",
                "What runs take lately over what was measured on the idle machine.",
                "suffix:×",
                6,
                6,
            ),
            Query(f"topk(1, {latest('offramp_slowdown', HERE, 'tier, model')})", "{{tier}} {{model}}"),
            amber_above=1.5,
            red_above=3,
            named=True,
        ),
        lines(
            About(
                "Latency percentiles",
                "Of the device's requests: when only the highest rises, few are slow.",
                "s",
                12,
                6,
            ),
            *(Query(quantile(q, "offramp_request_seconds", DOOR), f"{q:.0%}") for q in (0.5, 0.9, 0.95, 0.99)),
        ),
    ),
)

WAITING = Row(
    "Waiting and computing",
    (
        lines(
            About("Waiting for a worker", "Nine requests in ten wait no longer than this at each tier.", "s", 8),
            Query(quantile(0.9, "offramp_queue_seconds", HERE, "tier"), "{{tier}}"),
        ),
        lines(
            About("Runs waiting", "Runs of a segment that wait for a worker, now.", "short", 4),
            Query(latest("offramp_queue_length", TIER, "tier"), "{{tier}}"),
        ),
        lines(
            About("Computing", "Mean seconds that one request computes at each tier it reaches.", "s", 6),
            Query(ratio(rate(STAGE, f'{HERE}, stage="compute"', "tier"), rate(REQUESTS, HERE, "tier")), "{{tier}}"),
        ),
        lines(
            About(
                "Slower than idle", "What runs take lately over what was measured on the idle machine.", "suffix:×", 6
            ),
            Query(latest("offramp_slowdown", HERE, "tier, model"), "{{tier}} {{model}}"),
        ),
    ),
)

TRAVELLING = Row(
    "Travelling",
    (
        lines(
            About(
                "On the way, mean", "Seconds on the link above each tier of a request that goes up; both ways.", "s", 8
            ),
            Query(mean("offramp_hop_seconds", HERE, "tier"), "{{tier}}"),
        ),
        lines(
            About("On the way, 95th percentile", "One request in twenty takes longer on the link above.", "s", 8),
            Query(quantile(0.95, "offramp_hop_seconds", HERE, "tier"), "{{tier}}"),
        ),
        lines(
            About(
                "Samples in a request",
                "Mean batch at each tier; above the device, what is left of the requests.",
                "short",
                8,
            ),
            Query(mean("offramp_batch_size", HERE, "tier"), "{{tier}}"),
        ),
    ),
)

BOARD = Board(
    "why-is-it-slow",
    "Why is it slow",
    "What does a request's time go on, at which tier, and since when?",
    (WATERFALL, PARTS, WAITING, TRAVELLING),
)
