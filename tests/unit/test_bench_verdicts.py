"""Benchmarks that miss their bars: they say so in their exit code, and in JSON that anybody can read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import link_estimates, sessions
from benchmarks.link_estimates import Row

_MEMORY = {"sessions": 36, "mb_per_session": 1.0, "build_median_ms": 9.0, "build_max_ms": 20.0}
_REQUESTS = {"alone_p50_ms": 1.0, "alone_p99_ms": 2.0, "building_p50_ms": 1.0, "building_p99_ms": 3.0}


@pytest.mark.parametrize(
    ("megabytes", "ratio", "code"), [(3.0, 1.05, 0), (3.1, 1.0, 1), (1.0, 1.06, 1)], ids=["met", "large", "slow"]
)
def test_sessions_that_miss_a_bar_end_with_1(
    megabytes: float, ratio: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latency = {"latency_ratio": ratio, "least": 0.9, "most": 1.2}
    shared = _MEMORY | {"mb_per_session": megabytes}
    found = {"naive": _MEMORY, "shared": shared, "latency": latency, "requests": _REQUESTS}
    monkeypatch.setattr(sessions, "_apart", lambda kind, *_: found[kind])
    monkeypatch.setattr(sys, "argv", ["sessions", "--json", str(tmp_path / "sessions.json")])
    assert sessions.main() == code
    assert json.loads((tmp_path / "sessions.json").read_text())["latency"] == latency


def test_what_never_came_about_is_null_in_json() -> None:
    row = Row("a cut link is unknown", "-", "after inf s", False, {"gone_seconds": float("inf"), "back_seconds": 0.5})
    (told,) = json.loads(link_estimates.as_json([row]), parse_constant=lambda word: pytest.fail(word))
    assert told["numbers"] == {"gone_seconds": None, "back_seconds": 0.5}


def test_a_trace_of_which_nothing_was_ever_believed_is_not_followed() -> None:
    assert not link_estimates.followed("lte", []).holds
    assert link_estimates.followed("lte", [(0.01, 0.02, 0.1)]).holds
    assert not link_estimates.followed("lte", [(0.05, 0.02, 0.1)]).holds
