"""Tasks that begin at once, instead of with the next turn of the event loop and behind all that waits for it."""

from __future__ import annotations

import asyncio
import sys
import types
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

NATIVE = sys.version_info >= (3, 12)
"""Whether tasks can do that by themselves. Else the first part of one runs as part of the task that starts it, and must
not ask which it is: `asyncio.timeout` does."""


def start(coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Runs `coroutine` until it first waits; what is left of it is a task."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True)
    ended: asyncio.Future[T] = loop.create_future()
    try:
        return loop.create_task(_rest(coroutine, coroutine.send(None)))
    except StopIteration as stop:
        ended.set_result(stop.value)
    except Exception as error:
        ended.set_exception(error)
    return ended


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, T], waited_for: Any) -> Generator[Any, Any, T]:
    """The part of `coroutine` behind its first wait."""
    while True:
        step: Callable[[], Any] = partial(coroutine.send, None)
        try:
            yield waited_for
        except BaseException as error:  # somebody cancels the task; the coroutine is to know
            step = partial(coroutine.throw, error)
        try:
            waited_for = step()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
