"""Everything a client can get wrong at the public door: what it is told, and a tier that goes on as if nothing was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.open_inference import messages
from tests.calls import DOOR, arrays, asking
from tests.e2e.bad_door import ODD, ONE, WRONG
from tests.e2e.bad_input import Asked, Wrong, asking_a, check


def essence(reply: bytes) -> object:
    """The answer of a ModelInferResponse, without its id."""
    found = messages.ModelInferResponse.FromString(reply)
    return {name: array.tobytes() for name, array in arrays(found).items()}


@pytest.fixture(scope="module")
def door(tiny: Path) -> Iterator[tuple[Asked, object, int]]:
    good = asking(ONE).SerializeToString()
    with asking_a("device_agent", tiny, f"{DOOR}/ModelInfer", good, essence) as asked:
        yield asked


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.id)
def test_the_door_refuses(door: tuple[Asked, object, int], wrong: Wrong) -> None:
    check(door, wrong)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.id)
def test_the_door_takes(door: tuple[Asked, object, int], odd: Wrong) -> None:
    asked, first, _ = door
    assert essence(asked.method(odd.body(), timeout=20)) == first
