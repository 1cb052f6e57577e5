"""Running a command's coroutine, so that SIGTERM ends it as Ctrl-C does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.errors import OfframpError

T = TypeVar("T")


class Interrupted(OfframpError):
    """Ctrl-C or SIGTERM."""


def hang_up() -> tuple[signal.Signals, ...]:
    """SIGHUP, unless nohup had it ignored from the start: what it runs outlives its terminal."""
    return () if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (signal.SIGHUP,)


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`; SIGTERM ends it as Ctrl-C does, so that nothing it started is left behind."""

    async def interruptible() -> T:
        task = asyncio.ensure_future(work)
        for number in (signal.SIGTERM, *hang_up()):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await task

    try:
        return asyncio.run(interruptible())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Interrupted("interrupted") from None
