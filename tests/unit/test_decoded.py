"""How much may be decoded at once, and that it is always given back."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from services.bundle import InputSpec, Preprocessing
from services.decoded import Decoded
from services.errors import InvalidInput, QueueFull, TooLarge
from services.open_inference.tensors import read_input
from services.room import Room
from tests.calls import asking

SPEC = InputSpec(name="input", shape=(1, 8, 8), preprocessing=Preprocessing(mean=(0.5,), std=(0.25,)))
PIXELS = np.zeros((2, 8, 8, 1), np.uint8)


def test_what_was_taken_is_held_until_the_request_ends() -> None:
    room = Decoded(100)
    with room.holding() as first, room.holding() as second:
        first.take(40)
        second.take(30)
        first.take(30)
        assert room.held == 100
    assert room.held == 0


def test_what_does_not_fit_now_is_refused_and_takes_nothing() -> None:
    room = Decoded(100)
    with room.holding() as first, room.holding() as second:
        first.take(60)
        with pytest.raises(QueueFull) as later:
            second.take(41)
        assert later.value.retry_seconds is not None
        assert room.held == 60
        second.take(40)


def test_what_would_not_fit_alone_is_too_large_of_a_caller_and_left_to_the_tier_below_of_a_tier() -> None:
    room = Decoded(100)
    with room.holding() as holding:
        with pytest.raises(TooLarge, match="takes 101 bytes decoded, this tier has 100"):
            holding.bring(101)
        with pytest.raises(QueueFull, match="takes 101 bytes decoded, and 0 of 100 are taken") as never:
            holding.take(101)
        assert never.value.retry_seconds is None
        holding.bring(100)
        assert room.held == 100
    assert room.held == 0


def test_a_request_that_fails_gives_back_what_it_took() -> None:
    room = Decoded(100)

    def asked() -> None:
        with room.holding() as holding:
            holding.take(60)
            raise InvalidInput("after decoding")

    with pytest.raises(InvalidInput):
        asked()
    assert room.held == 0


async def test_a_request_that_is_cancelled_gives_back_what_it_took() -> None:
    room, here = Decoded(100), asyncio.Event()

    async def asked() -> None:
        with room.holding() as holding:
            holding.take(60)
            here.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(asked())
    await here.wait()
    assert room.held == 60
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert room.held == 0


def test_where_nobody_says_how_much_there_is_room_for_anything() -> None:
    with Decoded().holding() as holding:
        holding.take(1 << 50)


def test_who_never_finds_room_is_counted_and_not_told_to_try_again() -> None:
    room = Room(100, 10)
    for size, advice in ((101, ""), (60, "; try again shortly")):
        with room.decoded.holding() as other, room.decoded.holding() as holding:
            other.take(60 if advice else 0)
            with pytest.raises(QueueFull, match=f"of 100 are taken{advice}$") as error:
                holding.take(size)
        assert (error.value.retry_seconds is None) == (not advice)
    assert room.rejected == {"QUEUE_FULL": 2}


def test_there_is_as_much_room_for_what_is_decoded_as_for_messages() -> None:
    room = Room.within(256 << 20, 64 << 20)
    assert room.decoded.capacity == room.capacity == 32 << 20


@pytest.mark.parametrize("samples", [PIXELS, np.zeros((2, 1, 8, 8), np.float32)])
def test_the_public_door_counts_its_input_as_the_floats_it_becomes(samples: np.ndarray) -> None:
    taken: list[int] = []
    assert read_input(asking(samples), SPEC, 2, taken.append).nbytes == 512
    assert taken == [512]


def test_the_public_door_decodes_nothing_it_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.open_inference.tensors._flat", lambda *given: pytest.fail("it was decoded"))
    with Decoded(500).holding() as holding, pytest.raises(TooLarge):
        read_input(asking(PIXELS), SPEC, 2, holding.bring)
