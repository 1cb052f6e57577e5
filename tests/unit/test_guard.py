"""How a call that ends badly is told to those who count."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from services import guard
from services.errors import InvalidInput
from services.metrics.server_calls import _code
from services.observing import Observers, Refused
from services.open_inference import messages


class Noting:
    """An observer that keeps what was refused."""

    def __init__(self) -> None:
        self.refusals: list[Refused] = []

    def answered(self, finished: object) -> None:
        raise AssertionError

    def refused(self, refused: Refused) -> None:
        self.refusals.append(refused)


class Context(SimpleNamespace):
    """As much of a call's context as is looked at."""

    def __init__(self, left: float | None):
        super().__init__(left=left, told=None)

    def time_remaining(self) -> float | None:
        return self.left  # type: ignore[no-any-return]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.told = code

    def code(self) -> grpc.StatusCode | None:
        return self.told  # type: ignore[no-any-return]

    def set_details(self, details: str) -> None: ...

    def set_trailing_metadata(self, trailing: object) -> None: ...


async def forever(request: Any, context: Any) -> None:
    await asyncio.Event().wait()


def request() -> Any:
    return messages.ModelInferRequest(id="r7", model_name="tiny", model_version="2")


async def ended(behaviour: Any, context: Context) -> None:
    call = asyncio.create_task(behaviour(request(), context))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize(("left", "told"), [(0.0, 1), (0.004, 1), (0.5, 0), (None, 0)])
async def test_a_request_whose_time_ran_out_has_failed_and_one_whose_caller_left_has_not(
    left: float | None, told: int
) -> None:
    seen = Noting()
    method = guard.unary(forever, messages.ModelInferRequest, Observers((seen,)), computes=True)
    await ended(method.unary_unary, Context(left))
    expected = Refused("r7", "DEADLINE_EXCEEDED", "time ran out before there was an answer", "tiny", "2")
    assert seen.refusals == [expected] * told


async def test_a_stream_or_a_probe_whose_time_is_up_is_no_request() -> None:
    seen = Noting()
    for way in (guard.stream, guard.unary):
        method = way(forever, messages.ModelInferRequest, Observers((seen,)))
        await ended(method.stream_stream or method.unary_unary, Context(0.0))
    assert not seen.refusals


async def test_a_stream_that_ends_with_one_of_its_requests_tells_which() -> None:
    async def fails(requests: Any, context: Any) -> None:
        raise guard.RequestFailed(InvalidInput("no"), request())

    seen, context = Noting(), Context(None)
    method: Any = guard.stream(fails, messages.ModelInferRequest, Observers((seen,)))
    await method.stream_stream(iter(()), context)
    assert seen.refusals == [Refused("r7", "INVALID_INPUT", "no", "tiny", "2")]
    assert context.told is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("left", "code"),
    [(0.0, grpc.StatusCode.DEADLINE_EXCEEDED), (5.0, grpc.StatusCode.CANCELLED), (None, grpc.StatusCode.CANCELLED)],
)
def test_a_cancelled_call_is_counted_under_what_its_caller_was_told(left: float | None, code: grpc.StatusCode) -> None:
    context: Any = Context(left)
    assert _code(context, asyncio.CancelledError()) is code
