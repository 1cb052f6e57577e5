"""Every codec on damaged payloads: a tensor of the shape, or CorruptPayload; and little memory either way."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import codec
from services.errors import CorruptPayload
from tests.mutation import PIXELS, damaged_payloads, outcome

FREE_BYTES = 1 << 20
_EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("by", codec.NAMES)
@_EXAMPLES
@given(data=st.data())
def test_a_damaged_payload_is_a_tensor_of_its_shape_or_refused(by: str, data: st.DataObject) -> None:
    payload = data.draw(damaged_payloads(by))
    tensor = outcome(lambda: codec.get(by, PIXELS).decode(payload), CorruptPayload)
    if tensor is not None:
        assert (tensor.shape, tensor.dtype) == (payload.shape, np.float32)
        assert np.isfinite(tensor).all()


@pytest.mark.parametrize("by", codec.NAMES)
@pytest.mark.parametrize(
    "shape", [(1 << 20, 3, 4, 5), (2, 1 << 20, 4, 5), (2, 1, 1 << 12, 1 << 12), (1 << 28, 1, 1, 1)]
)
def test_a_shape_that_the_payload_cannot_fill_takes_no_memory(by: str, shape: tuple[int, ...]) -> None:
    from dataclasses import replace

    from tests.mutation import payload

    lying = replace(payload(by), shape=shape)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayload):
            codec.get(by, PIXELS).decode(lying)
        assert tracemalloc.get_traced_memory()[1] < FREE_BYTES < 4 * math.prod(shape)
    finally:
        tracemalloc.stop()
