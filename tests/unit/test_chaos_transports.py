"""A chaos run goes by both transports."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.commands import chaos


@pytest.mark.parametrize(("seed", "expected"), [(0, ("exchange", "unary")), (7, ("unary", "exchange"))])
def test_one_hop_goes_by_streams_and_the_other_by_calls(seed: int, expected: tuple[str, str]) -> None:
    asked = chaos._settings(Path("models/digits"), "20mbit,10ms", "50mbit,40ms", seed, Path("out"), 1.0, 1)
    assert asked.transports == expected
