"""What fuzzing once found stays fixed, and each target takes its own seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import SEEDS, TARGETS

FINDINGS = sorted(file for file in (Path(__file__).parents[1] / "fuzz" / "findings").iterdir() if "-" in file.name)


@pytest.mark.parametrize("file", FINDINGS, ids=lambda file: file.name)
def test_what_was_found_is_read_or_refused(file: Path) -> None:
    TARGETS[file.name.partition("-")[0]](file.read_bytes())


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_target_gets_past_its_seeds(name: str) -> None:
    for seed in SEEDS[name]():
        assert TARGETS[name](seed) is not None
