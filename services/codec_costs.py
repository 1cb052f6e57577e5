"""What codecs cost on this machine."""

from __future__ import annotations

import statistics

from services import codec
from services.bundle import Preprocessing
from services.domain import Clock, CodecCost, FloatArray

Lap = tuple[float, float, int]
"""Seconds to encode, seconds to decode, bytes on the wire."""


def measure(
    activation: FloatArray,
    names: tuple[str, ...],
    clock: Clock,
    repeats: int,
    preprocessing: Preprocessing | None = None,
) -> tuple[CodecCost, ...]:
    """Median encode and decode seconds per byte of the float32 `activation`, and the ratio, of each codec.

    Codecs take turns, so that a machine that slows down meanwhile does not favour some, and run once before it
    counts. Image codecs need the `preprocessing`, and an input [N, C, H, W] as their activation.
    """
    chosen = {name: codec.get(name, preprocessing) for name in names}
    laps: dict[str, list[Lap]] = {name: [] for name in names}
    for turn in range(repeats + 1):
        for name, each in chosen.items():
            lap = _lap(each, activation, clock)
            if turn:
                laps[name].append(lap)
    return tuple(_cost(name, found, activation.nbytes) for name, found in laps.items())


def _lap(chosen: codec.Codec, activation: FloatArray, clock: Clock) -> Lap:
    started = clock()
    payload = chosen.encode(activation)
    encoded = clock()
    chosen.decode(payload)
    return encoded - started, clock() - encoded, payload.nbytes


def _cost(name: str, laps: list[Lap], size: int) -> CodecCost:
    encode, decode, sent = (statistics.median(column) for column in zip(*laps, strict=True))
    return CodecCost(name, encode / size, decode / size, sent / size)
