"""Inputs that no image can show, on their way to where the plan sends images: they get the answer that they would get
on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services import bundle, codec
from services.domain import FloatArray, Payload, Tier
from services.images import normalise
from tests.calls import DOOR, arrays, asking, calling
from tests.tiers import device, upper

pytestmark = pytest.mark.usefixtures("transport")

IMAGES = "pixels", "jpeg75"
ODD = 5 * np.random.default_rng(0).standard_normal((3, 1, 8, 8), np.float32)


@pytest.fixture
def came_as(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The codecs of what is decoded, as it goes."""
    names, decode = list[str](), codec.Codec.decode

    def noting(by: codec.Codec, payload: Payload) -> FloatArray:
        names.append(by.name)
        return decode(by, payload)

    monkeypatch.setattr(codec.Codec, "decode", noting)
    return names


async def scores(address: str, samples: FloatArray) -> tuple[FloatArray, set[int]]:
    """What the device at `address` answers, and the tiers that did."""
    async with calling(address) as call:
        found = arrays(await call(f"{DOOR}/ModelInfer", asking(samples)))
    return found["scores"], set(found["tier_index"].tolist())


@pytest.mark.parametrize("by", IMAGES)
async def test_an_input_beyond_black_and_white_is_answered_as_on_the_device(
    tiny: Path, by: str, came_as: list[str]
) -> None:
    async with upper(Tier.EDGE, tiny) as edge, device(tiny, edge.address, splits="0,8", codecs=f"{by},fp32") as front:
        sent, tiers = await scores(front.address, ODD)
    async with device(tiny, splits="8,8") as alone:
        expected, _ = await scores(alone.address, ODD)
    assert tiers == {Tier.EDGE}
    assert came_as == ["fp32+zstd"]
    assert np.allclose(sent, expected, atol=1e-6)


async def test_it_stays_so_at_a_tier_that_passes_it_on(tiny: Path, came_as: list[str]) -> None:
    fixed = {"splits": "0,0", "codecs": "pixels,pixels"}
    async with (
        upper(Tier.CLOUD, tiny) as cloud,
        upper(Tier.EDGE, tiny, cloud.address) as edge,
        device(tiny, edge.address, **fixed) as front,
        device(tiny, splits="8,8") as alone,
    ):
        sent, tiers = await scores(front.address, ODD)
        expected, _ = await scores(alone.address, ODD)
    assert tiers == {Tier.CLOUD}
    assert set(came_as) == {"fp32+zstd"}
    assert np.allclose(sent, expected, atol=1e-6)


@pytest.mark.parametrize("by", IMAGES)
async def test_an_input_made_of_pixels_still_goes_as_an_image(tiny: Path, by: str, came_as: list[str]) -> None:
    preprocessing = bundle.load(tiny).manifest.input.preprocessing
    assert preprocessing is not None
    ends = np.array([0, 255] * 32, np.uint8).reshape(1, 8, 8, 1)
    async with upper(Tier.EDGE, tiny) as edge, device(tiny, edge.address, splits="0,8", codecs=f"{by},fp32") as front:
        for samples in (ends, normalise(ends, preprocessing)):
            await scores(front.address, samples)
    assert came_as == [by, by]
