"""What the codec benchmark concludes from its rows, also where that is against us."""

from __future__ import annotations

import numpy as np

from benchmarks.codec_rows import Row
from benchmarks.codec_verdict import front, said, verdict

COUNT = 1000


def row(split_point: int, codec: str, size: float, right: int, us: float = 10.0, head: float = 0.5) -> Row:
    """A row where the first `right` of 1,000 samples are right."""
    mask = np.arange(COUNT) < right
    return Row(split_point, codec, "50" not in codec, size, us, us, right / COUNT, mask, head, False)


PLAIN = row(0, "fp32", 3000, 900)


def test_the_front_is_what_nothing_beats_in_bytes_time_and_accuracy_at_once() -> None:
    small, quick, exact = row(1, "int2", 10, 800), row(1, "int8", 100, 899, us=1), row(1, "fp16", 200, 900)
    beaten = row(1, "int4", 110, 850)
    assert front([exact, beaten, quick, small]) == [small, quick, exact]


def test_an_activation_smaller_than_every_jpeg_that_keeps_the_accuracy_wins() -> None:
    found = verdict([PLAIN, row(0, "jpeg50", 300, 850), row(0, "jpeg90", 500, 900), row(3, "int4", 400, 900)])
    assert found["strict"]["JPEG"]["codec"] == "jpeg90"
    assert found["strict"]["activation"]["codec"] == "int4"
    assert "int4 at split point 3 needs fewer bytes than JPEG of the input, 80% of them" in said("net", found)


def test_a_verdict_against_us_is_said() -> None:
    found = verdict([PLAIN, row(0, "jpeg50", 300, 900), row(3, "int4", 400, 900), row(3, "int2", 200, 700)])
    assert said("net", found).count("no split point and codec needs fewer bytes than JPEG") == 2


def test_a_split_point_behind_nearly_all_of_the_network_does_not_count() -> None:
    found = verdict([PLAIN, row(0, "jpeg50", 300, 900), row(9, "int8", 10, 900, head=0.95)])
    assert found["strict"]["activation"] is None
