"""Tensors and payloads for the tests of codecs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services import codec
from services.domain import FloatArray, Payload

SMALLEST = 2.0**-149
WIDE = float(np.float32(8e37))  # so that the widest range still is a float32

shapes = st.lists(st.integers(0, 5), min_size=2, max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn, limit: float = WIDE) -> FloatArray:
    """Any shape, with whole constant channels, denormals, and ranges up to `limit`."""
    numbers = st.floats(-limit, limit, width=32) | st.floats(-1, 1, width=32) | st.sampled_from([0.0, 1e-45, -1e-40])
    tensor = draw(hnp.arrays(np.float32, draw(shapes), elements=numbers))
    if tensor.size and draw(st.booleans()):
        tensor[:, 0] = draw(numbers)
    return tensor


def round_trip(name: str, tensor: FloatArray) -> FloatArray:
    return codec.get(name).decode(codec.get(name).encode(tensor))


def signed(payload: Payload, **changes: object) -> Payload:
    """`payload` with `changes`, and a checksum that fits them."""
    changed = replace(payload, **changes)
    return replace(changed, crc32c=codec.checksum(changed.parameters, changed.data))


def example(name: str) -> Payload:
    return codec.get(name).encode(np.linspace(-1, 2, 48, dtype=np.float32).reshape(2, 3, 4, 2))
