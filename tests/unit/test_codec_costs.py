"""What codecs cost on this machine: per byte, in turns, with a clock of one's own."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from services import codec, codec_costs
from services.bundle import Preprocessing
from services.errors import InvalidInput

ACTIVATION = np.maximum(np.random.default_rng(0).normal(0, 1, (1, 8, 6, 6)), 0).astype(np.float32)


def ticking(*seconds: float):  # type: ignore[no-untyped-def]
    """A clock that goes on by these many seconds, again and again."""
    times = itertools.accumulate(itertools.cycle(seconds))
    return lambda: next(times)


def test_costs_are_seconds_per_byte_of_the_activation_and_what_it_becomes() -> None:
    (cost,) = codec_costs.measure(ACTIVATION, ("int8",), ticking(1.0, 2.0, 3.0), repeats=3)
    assert cost.codec == "int8"
    assert cost.encode_seconds_per_byte == pytest.approx(2.0 / ACTIVATION.nbytes)
    assert cost.decode_seconds_per_byte == pytest.approx(3.0 / ACTIVATION.nbytes)
    assert cost.ratio == codec.get("int8").encode(ACTIVATION).nbytes / ACTIVATION.nbytes


def test_every_codec_has_its_cost_in_the_order_asked_for() -> None:
    costs = codec_costs.measure(ACTIVATION, codec.INTERIOR, ticking(1.0), repeats=1)
    assert tuple(cost.codec for cost in costs) == codec.INTERIOR
    assert all(0 < cost.ratio < 2 for cost in costs)


def test_the_median_forgets_one_slow_turn() -> None:
    laps = [1.0, 1.0, 1.0] * 2 + [1.0, 99.0, 99.0] + [1.0, 1.0, 1.0]
    (cost,) = codec_costs.measure(ACTIVATION, ("fp16",), ticking(*laps), repeats=3)
    assert cost.encode_seconds_per_byte == pytest.approx(1.0 / ACTIVATION.nbytes)


def test_images_need_their_preprocessing() -> None:
    image = np.zeros((1, 1, 8, 8), np.float32)
    (cost,) = codec_costs.measure(image, ("png",), ticking(1.0), 1, Preprocessing(mean=(0.5,), std=(0.5,)))
    assert cost.codec == "png"
    with pytest.raises(InvalidInput, match="split point 0"):
        codec_costs.measure(image, ("png",), ticking(1.0), 1)
