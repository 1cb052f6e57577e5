"""Links and splits: what is believed of the links, which plan follows, did it come true, and what did it save?"""

from __future__ import annotations

from deploy.grafana.boards.board import Board, Row
from deploy.grafana.boards.panels import About, Query, events, heat, lines, number, stack, states
from deploy.grafana.boards.promql import DOOR, HERE, MODEL, TIER, latest, rate, ratio

UP = f'{HERE}, direction="up"'
PIXELS = f'{MODEL}, form="pixels"'
PLANNED = rate("offramp_planned_requests_total", MODEL)
AS_PIXELS = (
    f"sum({rate('offramp_samples_total', DOOR, 'model')} * on (model) {latest('offramp_input_bytes', PIXELS, 'model')})"
)
"""What all inputs would be as pixels, bytes per second."""
FORMS = (("fp32", "raw tensor"), ("pixels", "raw pixels"), ("jpeg75", "as a JPEG image"))

LINKS = Row(
    "What is believed of the links; each is named after its lower end",
    (
        lines(
            About("Rate", "Believed rate of the link above each tier, upwards.", "Bps", 8),
            Query(latest("offramp_link_rate_bytes_per_second", TIER, "tier"), "{{tier}}"),
            steps=True,
        ),
        lines(
            About(
                "Round trip", "Believed round trip of the link above each tier, without the time bytes take.", "s", 8
            ),
            Query(latest("offramp_link_rtt_seconds", TIER, "tier"), "{{tier}}"),
            steps=True,
        ),
        states(
            About(
                "Known",
                "Whether rate and round trip are known; no plan crosses a link of which nothing is.",
                "short",
                4,
            ),
            Query(f"min by (tier) (offramp_link_known{{{TIER}}})", "{{tier}}"),
            {0: ("unknown", "red"), 1: ("known", "green")},
        ),
        lines(
            About("Age", "Since the link was last heard to work.", "s", 4),
            Query(latest("offramp_link_age_seconds", TIER, "tier"), "{{tier}}"),
        ),
    ),
)

PLANS = Row(
    "Which plan follows; marks show where it changed",
    (
        lines(
            About(
                "Split points in force",
                "Where the plan last used crosses each hop; 0 sends the input itself.",
                "short",
                8,
            ),
            Query(latest("offramp_plan_split", MODEL, "model, hop"), "{{model}} {{hop}}"),
            steps=True,
        ),
        stack(
            About("Requests by plan", "Requests by the two split points of their plan.", "reqps", 8),
            Query(rate("offramp_split_decisions_total", MODEL, "split_1, split_2"), "{{split_1}}, {{split_2}}"),
        ),
        events(
            About("Plan changes", "Plans replaced by a better one.", "short", 8, none="none"),
            Query(f"sum by (model) (increase(offramp_plan_changes_total{{{MODEL}}}[$__rate_interval]))", "{{model}}"),
        ),
    ),
)

TRUE = Row(
    "Did it come true?",
    (
        lines(
            About(
                "Predicted and realised",
                "Mean time of a request as its plan expected it (dashed), and as it came.",
                "s",
                8,
            ),
            Query(ratio(rate("offramp_predicted_seconds_total", MODEL), PLANNED), "expected"),
            Query(ratio(rate("offramp_realised_seconds_total", MODEL), PLANNED), "realised"),
        ),
        heat(
            About(
                "Realised over predicted",
                "How many requests took how many times what their plan expected. A request with early exits takes less "
                "than the mean, one without takes more: look at the middle, not at the spread.",
                "short",
                8,
            ),
            Query(f"sum by (le) (increase(offramp_prediction_ratio_bucket{{{MODEL}}}[$__rate_interval]))", "{{le}}"),
        ),
        lines(
            About(
                "Regret",
                "What the plan in force is expected to take more than the best one, as far as is believed now. Above 0 "
                "for a while is by design: a better plan must prove itself first.",
                "s",
                8,
            ),
            Query(latest("offramp_regret_seconds", MODEL, "model"), "{{model}}"),
        ),
    ),
)

BYTES = Row(
    "What did it save?",
    (
        lines(
            About(
                "Bytes of a sample that crosses",
                "What one sample takes on each hop, against the input as it is and as an image (dashed).",
                "decbytes",
                9,
            ),
            Query(
                ratio(
                    rate("offramp_hop_bytes_total", UP, "tier"), rate("offramp_forwarded_samples_total", HERE, "tier")
                ),
                "{{tier}}",
            ),
            *(
                Query(latest("offramp_input_bytes", f'{MODEL}, form="{form}"', "model"), f"{{{{model}}}} {name}")
                for form, name in FORMS
            ),
        ),
        number(
            About(
                "Sent of raw pixels",
                "Bytes that leave the device over what all inputs are as pixels: early exits and codec together.",
                "percentunit",
                6,
            ),
            Query(ratio(rate("offramp_hop_bytes_total", f'{DOOR}, direction="up"'), AS_PIXELS)),
        ),
        lines(
            About("Traffic", "Bytes per second on each hop, both directions.", "Bps", 9),
            Query(rate("offramp_hop_bytes_total", HERE, "tier, direction"), "{{tier}} {{direction}}"),
        ),
    ),
)

BOARD = Board(
    "links-and-splits",
    "Links and splits",
    "What is believed of the links, which plan follows, did it come true, and what did it save?",
    (LINKS, PLANS, TRUE, BYTES),
)
