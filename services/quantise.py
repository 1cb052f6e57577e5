"""Numbers ⇄ small whole numbers: the lossy half of a codec. Every sample on its own ranges, whatever its batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from services.domain import FloatArray
from services.errors import CorruptPayload, NotCarried
from services.packing import Buffer, Levels

Shape = tuple[int, ...]
Units = npt.NDArray[np.int8]
WIDEST = float(np.finfo(np.float32).max) / 2
_RANGE_BYTES = 8  # int8, per group: a float32 minimum and a float32 step
_UNITS = 127


@dataclass(frozen=True, slots=True)
class Quantiser:
    """float32 [N, …] to `symbols(shape)` levels below 2^bits and `parameter_bytes(shape)` bytes, and back.

    `restore` takes levels and parameters of exactly these sizes, and raises CorruptPayload where they make no
    numbers.
    """

    bits: int
    quantise: Callable[[FloatArray], tuple[Levels, bytes]]
    restore: Callable[[Shape, Levels, Buffer], FloatArray]
    symbols: Callable[[Shape], int]
    parameter_bytes: Callable[[Shape], int]


def groups(shape: Shape) -> tuple[int, int]:
    """Quantisation groups of [N, C, …] and their size: one per sample and channel, or per sample of [N, F]."""
    count = math.prod(shape[:2]) if len(shape) > 2 else shape[0]
    return count, math.prod(shape) // count if count else 0


def plain(dtype: str) -> Quantiser:
    """The numbers as they are, in a little-endian float type. Error: none (f4), relative 2^-11 (f2)."""
    kind = np.dtype(dtype)

    limits = np.finfo(kind)

    def quantise(tensor: FloatArray) -> tuple[Levels, bytes]:
        fitting = tensor if kind.itemsize == 4 else tensor.clip(limits.min, limits.max)
        return fitting.astype(kind, copy=False).reshape(-1).view(np.uint8), b""

    def restore(shape: Shape, levels: Levels, parameters: Buffer) -> FloatArray:
        return np.frombuffer(levels, kind).astype(np.float32, copy=False).reshape(shape)

    return Quantiser(8, quantise, restore, lambda shape: math.prod(shape) * kind.itemsize, lambda shape: 0)


def _quantise_int8(tensor: FloatArray) -> tuple[Levels, bytes]:
    rows = tensor.reshape(groups(tensor.shape))
    if not rows.size:
        return np.empty(0, np.uint8), bytes(_RANGE_BYTES * len(rows))
    low = rows.min(axis=1)
    spans = rows.max(axis=1).astype(np.float64) - low
    _check_width(spans.max())
    step = (spans / 255).astype("<f4")
    return _levels(rows, low, step, 255), low.astype("<f4", copy=False).tobytes() + step.tobytes()


def _restore_int8(shape: Shape, levels: Levels, parameters: Buffer) -> FloatArray:
    low, step = np.frombuffer(parameters, "<f4").reshape(2, -1, 1)
    if not (np.isfinite(low).all() and np.isfinite(step).all() and (step >= 0).all()):
        raise CorruptPayload("a quantisation range is not finite or negative")
    return _values(shape, levels, low, step)


def _quantise_few(top: int, tensor: FloatArray) -> tuple[Levels, bytes]:
    rows = tensor.reshape(groups(tensor.shape))
    if not rows.size:
        return np.empty(0, np.uint8), bytes(_few_bytes(tensor.shape))
    lowest, highest = rows.min(axis=1), rows.max(axis=1)
    unit = np.maximum(-lowest, highest).reshape(len(tensor), -1).max(axis=1)
    _check_width(max(unit.max(), (highest.astype(np.float64) - lowest).max()))
    unit = (unit / _UNITS).astype("<f4")
    each = np.repeat(unit, len(rows) // len(tensor))
    divisor = np.where(each > 0, each, 1)
    low = np.maximum(np.floor(lowest / divisor), -_UNITS).astype(np.int8)  # beyond it only by rounding
    high = np.minimum(np.ceil(highest / divisor), _UNITS).astype(np.int8)
    start, step = _few_range(each, low, high, top)
    return _levels(rows, start, step, top), unit.tobytes() + low.tobytes() + high.tobytes()


def _restore_few(top: int, shape: Shape, levels: Levels, parameters: Buffer) -> FloatArray:
    samples, count = shape[0], groups(shape)[0]
    unit = np.frombuffer(parameters, "<f4", samples)
    low, high = np.frombuffer(parameters, np.int8, 2 * count, 4 * samples).reshape(2, count)
    if not (np.isfinite(unit).all() and (unit >= 0).all() and (low <= high).all()):
        raise CorruptPayload("a quantisation range is not finite or negative")
    start, step = _few_range(np.repeat(unit, count // samples if samples else 0), low, high, top)
    return _values(shape, levels, start[:, None], step[:, None])


def _few_range(unit: FloatArray, low: Units, high: Units, top: int) -> tuple[FloatArray, FloatArray]:
    """Start and step of each group, float32, from its low and high in units."""
    with np.errstate(over="ignore"):  # what is not finite then is refused by the caller
        step = (high.astype(np.float32) - low) * unit / np.float32(top)
        return low * unit, step


def _few_bytes(shape: Shape) -> int:
    return 4 * shape[0] + 2 * groups(shape)[0]


def _check_width(span: float) -> None:
    if span > WIDEST:
        raise NotCarried(f"the activation ranges over more than {WIDEST:.1e}; no quantiser (int8 …) can carry it")


def _levels(rows: FloatArray, start: FloatArray, step: FloatArray, top: int) -> Levels:
    """round((x - start) / step), 0 where that is 0. In place: new arrays would take most of the time."""
    scaled = rows - start[:, None]
    scaled /= np.where(step > 0, step, np.inf)[:, None]
    np.rint(scaled, out=scaled)
    return scaled.clip(0, top, out=scaled).astype(np.uint8).reshape(-1)


def _values(shape: Shape, levels: Levels, start: FloatArray, step: FloatArray) -> FloatArray:
    rows, flat = levels.reshape(groups(shape)), step[:, 0] == 0
    if flat.any() and rows[flat].any():
        raise CorruptPayload("a quantisation step is 0, and its levels are not")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused by the caller
        values = rows * step
        values += start
        return np.asarray(values, np.float32).reshape(shape)


def few(bits: int) -> Quantiser:
    """`bits` bits per element, affine per sample and channel, with ranges of two bytes.

    The sample's largest magnitude over 127 is its unit (float32). Each group's low and high are whole units
    (int8), rounded outwards, so that 0 stays exactly 0 after a ReLU. q = round((x - low) / step) with
    step = (high - low) / (2^bits - 1). Error at most step / 2, which is at most
    (the group's range + 2 units) / (2 (2^bits - 1)), plus float32 rounding.
    Parameters: the units of all samples, the lows of all groups, then their highs.
    """
    top = 2**bits - 1
    return Quantiser(bits, partial(_quantise_few, top), partial(_restore_few, top), math.prod, _few_bytes)


QUANTISERS: dict[str, Quantiser] = {
    "fp32": plain("<f4"),
    "fp16": plain("<f2"),
    "int8": Quantiser(8, _quantise_int8, _restore_int8, math.prod, lambda shape: groups(shape)[0] * _RANGE_BYTES),
    "int4": few(4),
    "int3": few(3),
    "int2": few(2),
}
"""int8: affine per sample and channel, q = round((x - low) / step), step = (high - low) / 255.
Its parameters are all the lows, then all the steps: the lows of what passed a ReLU are mostly zeros in a row.
Error at most step / 2, plus float32 rounding."""
