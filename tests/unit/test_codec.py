"""Activation to bytes and back, and every way in which the bytes can lie."""

from __future__ import annotations

import contextlib
import re
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from services import codec
from services.domain import FloatArray, Payload
from services.errors import CorruptPayload, InvalidInput
from tests.payloads import SMALLEST, example, round_trip, signed, tensors

NAMES = list(codec.CODECS)
EXACT = [name for name in NAMES if "+" not in name]
RAW_PARAMETERS = [name for name in EXACT if name.startswith("int")]
ZSTD = [name for name in NAMES if "zstd" in name]
WIDEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize("name", ["fp32", "fp32+zstd"])
@given(tensor=tensors(limit=WIDEST))
def test_fp32_returns_every_bit(name: str, tensor: FloatArray) -> None:
    decoded = round_trip(name, tensor)
    assert decoded.dtype == np.float32
    assert decoded.shape == tensor.shape
    assert decoded.tobytes() == tensor.tobytes()


@pytest.mark.parametrize("name", ["fp16", "fp16+zstd"])
@given(tensor=tensors(limit=65504.0))
def test_fp16_is_off_by_half_of_its_last_bit_at_most(name: str, tensor: FloatArray) -> None:
    error = np.abs(round_trip(name, tensor).astype(np.float64) - tensor)
    assert (error <= 2.0**-11 * np.abs(tensor.astype(np.float64)) + 2.0**-25).all()


def test_fp16_keeps_what_is_beyond_its_range_at_its_limits() -> None:
    tensor = np.array([[1e6, -1e6, 65505]], np.float32)
    assert round_trip("fp16", tensor).tolist() == [[65504, -65504, 65504]]


@pytest.mark.parametrize("name", ["int8", "int8+zstd", "int8+bitmap"])
@given(tensor=tensors())
def test_int8_is_off_by_half_a_step_of_its_own_channel_at_most(name: str, tensor: FloatArray) -> None:
    decoded = round_trip(name, tensor)
    assert decoded.shape == tensor.shape
    if tensor.size:
        rows = (tensor.shape[0], -1) if tensor.ndim == 2 else (*tensor.shape[:2], -1)
        values = tensor.astype(np.float64).reshape(rows)
        error = np.abs(decoded.astype(np.float64).reshape(rows) - values)
        step = (values.max(axis=-1, keepdims=True) - values.min(axis=-1, keepdims=True)) / 255
        rounding = 2.0**-20 * np.abs(values).max(axis=-1, keepdims=True) + 256 * SMALLEST
        assert (error <= step / 2 + rounding).all()


def test_int8_gives_a_constant_channel_back_exactly() -> None:
    tensor = np.full((2, 3, 4), 0.1, np.float32)
    assert np.array_equal(round_trip("int8", tensor), tensor)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("int")])
def test_a_range_wider_than_float32_can_say_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="int8"):
        codec.get(name).encode(np.array([[3e38, -3e38]], np.float32))


@pytest.mark.parametrize("name", NAMES)
@given(tensor=tensors(limit=60000.0))
def test_a_sample_decodes_to_the_same_alone_as_in_its_batch(name: str, tensor: FloatArray) -> None:
    together = round_trip(name, tensor)
    for row, sample in enumerate(tensor):
        assert np.array_equal(round_trip(name, sample[None])[0], together[row])


@pytest.mark.parametrize("name", EXACT)
@given(tensor=tensors(limit=60000.0))
def test_the_estimate_is_exact_without_a_lossless_stage(name: str, tensor: FloatArray) -> None:
    assert codec.get(name).estimate_bytes(tensor.shape) == codec.get(name).encode(tensor).nbytes


@pytest.mark.parametrize("name", ZSTD)
def test_the_estimate_with_a_lossless_stage_is_less_than_without(name: str) -> None:
    plain = codec.get(name.removesuffix("+zstd"))
    assert 0 < codec.get(name).estimate_bytes((3, 8, 4, 4)) < plain.estimate_bytes((3, 8, 4, 4))


@pytest.mark.parametrize("stage", ["zstd", "bitmap"])
@pytest.mark.parametrize("name", ["int8", "int4", "int3", "int2"])
def test_a_sparse_activation_becomes_smaller(name: str, stage: str) -> None:
    sparse = np.maximum(np.random.default_rng(0).normal(-1, 1, (4, 16, 8, 8)), 0).astype(np.float32)
    assert codec.get(f"{name}+{stage}").encode(sparse).nbytes < 0.8 * codec.get(name).encode(sparse).nbytes


@pytest.mark.parametrize("name", NAMES)
@given(at=st.integers(0), bit=st.integers(0, 7))
def test_one_flipped_bit_is_noticed(name: str, at: int, bit: int) -> None:
    payload = example(name)
    whole = bytearray(payload.parameters + bytes(payload.data))
    whole[at % len(whole)] ^= 1 << bit
    cut = len(payload.parameters)
    flipped = replace(payload, parameters=bytes(whole[:cut]), data=bytes(whole[cut:]))
    with pytest.raises(CorruptPayload, match="CRC32C"):
        codec.get(name).decode(flipped)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"", lambda d: d * 2])
def test_data_of_another_length_is_refused(name: str, change: object) -> None:
    payload = example(name)
    with pytest.raises(CorruptPayload):
        codec.get(name).decode(signed(payload, data=change(bytes(payload.data))))  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_too_many_are_refused(name: str) -> None:
    payload = example(name)
    with pytest.raises(CorruptPayload, match="parameters"):
        codec.get(name).decode(signed(payload, parameters=payload.parameters + bytes(8)))


@pytest.mark.parametrize("name", RAW_PARAMETERS)
def test_parameters_too_few_are_refused(name: str) -> None:
    payload = example(name)
    with pytest.raises(CorruptPayload, match="parameters"):
        codec.get(name).decode(signed(payload, parameters=payload.parameters[:-1]))


@pytest.mark.parametrize(
    ("low", "step"),
    [(0.0, np.nan), (np.nan, 1.0), (np.inf, 1.0), (0.0, np.inf), (0.0, -1.0), (3e38, 3e38), (-np.inf, np.inf)],
)
def test_a_quantisation_range_that_makes_no_number_is_refused(low: float, step: float) -> None:
    parameters = struct.pack("<ff", low, step)
    lie = signed(Payload((1, 2), "int8", b"\x00\xff", parameters))
    with pytest.raises(CorruptPayload):
        codec.get("int8").decode(lie)


@pytest.mark.parametrize("name", ["fp32", "fp16", "fp32+zstd", "fp16+zstd"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_do_not_come_in(name: str, value: float) -> None:
    data = np.array([1, value], "<f2" if "16" in name else "<f4").tobytes()
    if "zstd" in name:
        data = zstandard.ZstdCompressor().compress(data)
    with pytest.raises(CorruptPayload, match="finite"):
        codec.get(name).decode(signed(Payload((1, 2), name, data)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 1], [np.inf, -np.inf], [np.inf, np.inf], [np.nan, np.nan]])
def test_numbers_that_are_not_finite_do_not_go_out(name: str, values: list[float]) -> None:
    with pytest.raises(InvalidInput, match="finite"):
        codec.get(name).encode(np.array([values], np.float32))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (-1, 3, 4, 2), (-2, -3, 4, 2)])
def test_a_shape_that_is_none_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptPayload):
        codec.get(name).decode(replace(example(name), shape=shape))


def announcing(size: int) -> bytes:
    """A zstd frame whose header announces `size` bytes, and whose one block holds a single zero."""
    header = zstandard.FRAME_HEADER + struct.pack("<BQ", 0b11100000, size)
    last_raw_block_of_one = (1 << 3) | 1
    return header + struct.pack("<I", last_raw_block_of_one)[:3] + b"\0"


@pytest.mark.parametrize("name", ZSTD)
@pytest.mark.parametrize("announced", [49, 1 << 20, 1 << 40, (1 << 64) - 3])
def test_a_frame_that_announces_more_than_its_shape_is_refused_before_it_is_inflated(name: str, announced: int) -> None:
    bomb = signed(example(name), data=announcing(announced))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayload, match="announce"):
            codec.get(name).decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_frame_that_announces_nothing_is_refused() -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(48))
    with pytest.raises(CorruptPayload, match="announce"):
        codec.get("int8+zstd").decode(signed(example("int8+zstd"), data=silent))


def test_a_frame_that_becomes_more_than_it_announces_is_refused() -> None:
    bomb = bytearray(zstandard.ZstdCompressor().compress(bytes(1 << 20)))
    assert bomb[4] >> 5 == 0b101, "a single segment, its size in four bytes"
    bomb[5:9] = struct.pack("<I", 96)
    with pytest.raises(CorruptPayload, match="zstd"):
        codec.get("int8+zstd").decode(signed(example("int8+zstd"), data=bytes(bomb)))


@pytest.mark.parametrize("size", [1 << 33, 1 << 40, 1 << 62])
def test_a_huge_shape_with_tiny_data_is_refused(size: int) -> None:
    lie = Payload((1, 1, size), "int8+zstd", announcing(size), struct.pack("<ff", 0, 1))
    with pytest.raises(CorruptPayload):
        codec.get("int8+zstd").decode(signed(lie))


@pytest.mark.parametrize("name", EXACT)
def test_a_huge_shape_is_refused_by_its_length_alone(name: str) -> None:
    lie = replace(example(name), shape=(1 << 40, 3, 1 << 40, 2))
    with pytest.raises(CorruptPayload, match="bytes long"):
        codec.get(name).decode(lie)


@given(
    name=st.sampled_from(NAMES),
    shape=st.lists(st.integers(0, 1 << 20) | st.integers(0, 4), min_size=1, max_size=4).map(tuple),
    data=st.binary(max_size=200),
    parameters=st.binary(max_size=40),
)
def test_whatever_arrives_is_decoded_or_refused_as_corrupt(
    name: str, shape: tuple[int, ...], data: bytes, parameters: bytes
) -> None:
    with contextlib.suppress(CorruptPayload):
        decoded = codec.get(name).decode(signed(Payload(shape, name, data, parameters)))
        assert decoded.shape == shape
        assert np.isfinite(decoded).all()


@given(name=st.sampled_from(NAMES), data=st.data())
def test_a_payload_with_other_bytes_in_it_is_decoded_or_refused_as_corrupt(name: str, data: st.DataObject) -> None:
    payload = example(name)
    whole = bytearray(payload.parameters + bytes(payload.data))
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    cut = len(payload.parameters)
    with contextlib.suppress(CorruptPayload):
        decoded = codec.get(name).decode(signed(payload, parameters=bytes(whole[:cut]), data=bytes(whole[cut:])))
        assert decoded.shape == payload.shape
        assert np.isfinite(decoded).all()


@given(name=st.sampled_from(ZSTD), data=st.binary(max_size=200))
def test_noise_in_place_of_a_frame_is_refused(name: str, data: bytes) -> None:
    assume(data != bytes(example(name).data))
    with pytest.raises(CorruptPayload):
        codec.get(name).decode(signed(example(name), data=data))


def test_the_bytes_are_those_that_the_documentation_shows() -> None:
    page = (Path(__file__).parent.parent.parent / "docs/wire-format.md").read_text(encoding="utf-8")
    shown = re.sub(r"\s+", "", page.partition("becomes:")[2].partition("The first group")[0])
    tensor = np.array([[[[0, 1], [2, 5.1]], [[-1, -1], [-1, -1]]]], np.float32)
    for name in ("fp32", "fp16", "int8", "int8+bitmap", "int4", "int3", "int2"):
        payload = codec.get(name).encode(tensor)
        assert f"{name}{payload.parameters.hex()}{bytes(payload.data).hex()}{payload.crc32c:08x}" in shown


def test_an_unknown_codec_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"unknown codec 'gzip'; known: fp32, fp32\+zstd"):
        codec.get("gzip")
