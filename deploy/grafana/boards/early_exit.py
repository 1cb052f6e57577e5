"""Early exit: who leaves where, how sure, what accuracy was promised, and do inputs look as they did then?"""

from __future__ import annotations

from deploy.grafana.boards.board import Board, Row
from deploy.grafana.boards.panels import About, Query, bars, heat, lines, number, stack
from deploy.grafana.boards.promql import MODEL, latest, mean, portions, quantile, rate, ratio, total

EXITS, CONFIDENCE = "offramp_exits_total", "offramp_exit_confidence"
EXPECTED = latest("offramp_expected_exit_ratio", MODEL, "model, exit")
SHARE = portions(rate(EXITS, MODEL, "model, exit"), rate(EXITS, MODEL, "model"), "model")
EARLY = "on (model, exit) max by (model, exit) (offramp_exit_threshold) > 0"
"""The last exit's threshold is 0: whoever comes that far is answered there."""

MIX = Row(
    "Who leaves where",
    (
        number(
            About("Answered early", "Share of samples that leave before the last exit.", "percentunit", 6, 5),
            Query(ratio(f"sum({rate(EXITS, MODEL, 'model, exit')} and {EARLY})", rate(EXITS, MODEL))),
        ),
        number(
            About(
                "Expected to leave early",
                "The same share as calibration found it on held-out inputs.",
                "percentunit",
                6,
                5,
            ),
            Query(f"sum by (model) ({EXPECTED} and {EARLY})", "{{model}}"),
        ),
        number(
            About(
                "Calibrated accuracy",
                "Accuracy with early exits, measured on held-out inputs at calibration.",
                "percentunit",
                6,
                5,
            ),
            Query(latest("offramp_calibrated_accuracy", MODEL, "model"), "{{model}}"),
        ),
        number(
            About(
                "Accuracy contract",
                "The most accuracy that the thresholds may cost against the whole network; held with the confidence "
                "that the bundle's manifest states, while inputs are like those of calibration.",
                "percentunit",
                6,
                5,
            ),
            Query(latest("offramp_contract_accuracy_loss", MODEL, "model"), "{{model}}"),
        ),
        stack(
            About(
                "Exit mix", "Share of samples that each exit answers, at whichever tier it ran.", "percentunit", 12, 9
            ),
            Query(portions(rate(EXITS, MODEL, "exit"), rate(EXITS, MODEL)), "{{exit}}"),
        ),
        bars(
            About(
                "Exits at tiers", "Samples answered by each exit at each tier, over all the time shown.", "short", 12, 9
            ),
            Query(total(EXITS, MODEL, "tier, exit"), "{{exit}} exit, at {{tier}}"),
        ),
    ),
)

DRIFT = Row(
    "Do inputs look as they did at calibration?",
    (
        lines(
            About(
                "Exit shares against calibration",
                "Dashed: what calibration expects. Fewer early exits than that means harder inputs.",
                "percentunit",
            ),
            Query(SHARE, "{{model}} {{exit}}"),
            Query(EXPECTED, "{{model}} {{exit}}, expected"),
        ),
        lines(
            About(
                "Drift",
                "Share of samples that leave elsewhere than calibration says: half of the summed differences above. "
                "With a few hundred samples some hundredths are chance.",
                "percentunit",
            ),
            Query(f"0.5 * sum by (model) (abs(({SHARE}) - {EXPECTED}))", "{{model}}"),
        ),
    ),
)

CONFIDENT = Row(
    "How sure",
    (
        heat(
            About("Confidence of answers", "How many answers were given with which confidence.", "percentunit", 12, 9),
            Query(f"sum by (le) (increase({CONFIDENCE}_bucket{{{MODEL}}}[$__rate_interval]))", "{{le}}"),
        ),
        lines(
            About("Mean confidence by exit", "Confidence of the answers that each exit gave.", "percentunit", 6, 9),
            Query(mean(CONFIDENCE, MODEL, "exit"), "{{exit}}"),
        ),
        lines(
            About(
                "Least sure tenth by exit",
                "A tenth of each exit's answers is less sure than this. Dashed: the threshold to reach.",
                "percentunit",
                6,
                9,
            ),
            Query(quantile(0.1, CONFIDENCE, MODEL, "exit"), "{{exit}}"),
            Query(f"{latest('offramp_exit_threshold', MODEL, 'model, exit')} > 0", "{{model}} {{exit}}, expected"),
        ),
    ),
)

BOARD = Board(
    "early-exit",
    "Early exit",
    "Who leaves where, how sure, what accuracy was promised, and do inputs look as they did at calibration?",
    (MIX, DRIFT, CONFIDENT),
)
