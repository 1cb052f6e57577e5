"""Few bits and bitmaps: how much is lost, how much is saved, and what is refused."""

from __future__ import annotations

import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import codec, packing
from services.domain import FloatArray, Payload
from services.errors import CorruptPayload, InvalidInput
from tests.payloads import SMALLEST, example, round_trip, signed, tensors

BITMAP = [name for name in codec.CODECS if "bitmap" in name]
FEW = [name for name in codec.CODECS if name[:4] in ("int4", "int3", "int2")]


@pytest.mark.parametrize("name", FEW)
@given(tensor=tensors())
def test_few_bits_are_off_by_half_a_step_of_their_own_channel_at_most(name: str, tensor: FloatArray) -> None:
    decoded = round_trip(name, tensor)
    assert decoded.shape == tensor.shape
    if tensor.size:
        rows = (len(tensor), 1, -1) if tensor.ndim == 2 else (*tensor.shape[:2], -1)
        values = tensor.astype(np.float64).reshape(rows)
        error = np.abs(decoded.astype(np.float64).reshape(rows) - values)
        largest = np.abs(values).max(axis=(1, 2), keepdims=True)
        span = values.max(axis=2, keepdims=True) - values.min(axis=2, keepdims=True)
        bound = (span + 2 * largest / 127) / (2 * (2 ** int(name[3]) - 1))
        assert (error <= bound + 2.0**-20 * largest + 256 * SMALLEST).all()


@pytest.mark.parametrize("name", FEW)
@given(tensor=tensors())
def test_few_bits_keep_the_zeros_of_a_relu(name: str, tensor: FloatArray) -> None:
    tensor = np.maximum(tensor, 0)
    assert (round_trip(name, tensor)[tensor == 0] == 0).all()


@pytest.mark.parametrize("name", BITMAP)
@given(tensor=tensors())
def test_a_bitmap_costs_an_eighth_at_most_and_saves_the_zeros(name: str, tensor: FloatArray) -> None:
    plain = codec.get(name.removesuffix("+bitmap")).encode(tensor)
    levels = tensor.size
    assert codec.get(name).encode(tensor).nbytes <= plain.nbytes + (levels + len(plain.parameters)) / 8 + 2
    assert codec.get(name).encode(np.zeros_like(tensor)).nbytes <= (levels + len(plain.parameters)) / 8 + 2


def test_int4_is_half_of_int8_and_two_bytes_for_each_channel() -> None:
    payload = codec.get("int4").encode(np.ones((2, 3, 4, 5), np.float32))
    assert len(payload.data) == 2 * 3 * 4 * 5 / 2
    assert len(payload.parameters) == 2 * 4 + 2 * 3 * 2


@pytest.mark.parametrize(
    ("unit", "low", "high"),
    [(np.nan, 0, 1), (np.inf, 0, 1), (-1.0, 0, 1), (1.0, 1, 0), (3e38, -128, 127), (3e38, 0, 127)],
)
@pytest.mark.parametrize("name", ["int4", "int3", "int2"])
def test_a_range_in_units_that_makes_no_number_is_refused(name: str, unit: float, low: int, high: int) -> None:
    parameters = struct.pack("<fbb", unit, low, high)
    data = codec.get(name).encode(np.array([[0, 1]], np.float32)).data
    with pytest.raises(CorruptPayload):
        codec.get(name).decode(signed(Payload((1, 2), name, data, parameters)))


@pytest.mark.parametrize("name", BITMAP)
def test_a_bitmap_that_announces_more_than_there_is_is_refused(name: str) -> None:
    payload = example(name)
    with pytest.raises(CorruptPayload, match="announces"):
        codec.get(name).decode(signed(payload, data=b"\xff" * 8))


@pytest.mark.parametrize("name", BITMAP)
def test_a_huge_shape_is_refused_before_its_bitmap_is_unpacked(name: str) -> None:
    lie = replace(example(name), shape=(1, 3, 1 << 40, 2))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayload, match="bitmap"):
            codec.get(name).decode(lie)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_a_bitmap_without_its_levels_is_refused_before_its_levels_are_made(bits: int) -> None:
    marks = memoryview(b"\xff" * (1 << 17))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayload, match="announces"):
            packing.with_zeros(marks, bits, 8 * len(marks))
        assert tracemalloc.get_traced_memory()[1] < 3 * len(marks)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", BITMAP)
def test_the_length_of_bitmaps_is_checked_without_the_levels_that_they_keep(name: str) -> None:
    by, levels = codec.get(name), np.zeros((64, 1, 1 << 7, 1 << 7), np.float32)
    payload = by.encode(levels)
    for lie in (bytes(payload.data)[:-1], bytes(payload.data) + b"\0"):
        with pytest.raises(CorruptPayload):
            by.check(signed(payload, data=lie))
    tracemalloc.start()
    try:
        by.check(payload)
        assert tracemalloc.get_traced_memory()[1] < levels.size // 4
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@given(levels=st.lists(st.integers(0, 3), max_size=40))
def test_a_bitmap_marks_what_is_not_zero_up_to_its_last_bit(bits: int, levels: list[int]) -> None:
    given_levels = np.array(levels, np.uint8)
    packed = memoryview(packing.without_zeros(given_levels, bits) + b"after")
    found, rest = packing.with_zeros(packed, bits, len(levels))
    assert (found.tolist(), bytes(rest)) == (levels, b"after")


@pytest.mark.parametrize("name", FEW)
def test_what_ranges_over_more_than_can_be_carried_is_refused_by_who_sends_it(name: str) -> None:
    widest = float(np.finfo(np.float32).max) / 2
    for low, high in ((-widest, widest), (-0.6 * widest, 0.6 * widest)):
        with pytest.raises(InvalidInput, match="ranges over more"):
            codec.get(name).encode(np.array([[low, high]], np.float32))
    assert np.isfinite(round_trip(name, np.array([[-0.49 * widest, 0.49 * widest]], np.float32))).all()
