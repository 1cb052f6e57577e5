"""What the codec benchmark concludes from its rows, also where that is against us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import codec_rows, codecs
from benchmarks.codec_rows import Row
from benchmarks.codec_verdict import beaten_by_jpeg, front, said, verdict
from services.bundle import load

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


def test_who_needs_more_bytes_than_jpeg_in_either_sense_is_beaten_by_it() -> None:
    jpeg, ahead = row(0, "jpeg50", 300, 900), row(3, "int4", 200, 900)
    assert beaten_by_jpeg(verdict([PLAIN, jpeg]))
    assert beaten_by_jpeg(verdict([PLAIN, jpeg, row(3, "int4", 300, 900)]))
    assert beaten_by_jpeg(verdict([PLAIN, jpeg, row(3, "int4", 400, 900), row(3, "int2", 200, 899)]))
    assert not beaten_by_jpeg(verdict([PLAIN, jpeg, ahead]))
    assert not beaten_by_jpeg(verdict([PLAIN, row(0, "jpeg50", 100, 700), ahead]))


def test_the_shipped_cifar10_network_has_an_activation_of_fewer_bytes_than_any_jpeg_as_accurate(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = codec_rows._codecs
    monkeypatch.setattr(codec_rows, "useful_split_points", lambda _: (0, 12))
    monkeypatch.setattr(codec_rows, "_times", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(
        codec_rows, "_codecs", lambda *at: [each for each in every(*at) if each[0].startswith(("fp32", "int2", "jpeg"))]
    )
    found = codecs.measured(load(Path("models/cifar10")), data, 300)
    assert not beaten_by_jpeg(verdict(found))
