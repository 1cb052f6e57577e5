"""What a caller wishes, as it goes into a message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from device_agent.questions import infer_request, wishes_of

SAMPLES = np.zeros((1, 2), np.float32)


@pytest.mark.parametrize(
    ("wish", "value", "field", "sent"),
    [
        ("exit_threshold", np.float32(0.5), "double_param", 0.5),
        ("exit_threshold", np.float64(0.9), "double_param", 0.9),
        ("max_exit", np.int64(1), "int64_param", 1),
        ("priority", np.uint8(2), "int64_param", 2),
        ("privacy", np.bool_(True), "bool_param", True),
        ("policy", np.str_("energy"), "string_param", "energy"),
        ("privacy", False, "bool_param", False),
        ("max_exit", 1, "int64_param", 1),
    ],
)
def test_a_number_of_numpy_is_sent_like_one_of_pythons(wish: str, value: Any, field: str, sent: Any) -> None:
    parameter = infer_request("m", SAMPLES, wishes=wishes_of({wish: value})).parameters[wish]
    assert parameter.WhichOneof("parameter_choice") == field
    assert getattr(parameter, field) == sent
