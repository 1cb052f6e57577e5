"""Load from processes of their own, so that whoever measures does not hold up whoever asks.

Each process does one window at a time: so many callers, each of whom asks again when answered. The bare loop, which
runs the network without a server, is a window like any other, with threads for callers.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import bare
from benchmarks.drivers import DRIVERS
from benchmarks.subjects import Subject
from services import process

BARE = "bare loop"
PROCESSES = 2
"""As many as share the callers of a crowd."""
_WARM_SHARE = 0.3
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Window:
    """What to do: `driver` one of DRIVERS or BARE, `path` the subject's folder, `address` the server's."""

    driver: str
    path: str
    address: str
    callers: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Found:
    """One window: requests per second that were answered in it, and microseconds of a request."""

    rate: float
    p50_us: float
    p99_us: float


class LoadError(Exception):
    """A window that could not be done, and why."""


class Loads:
    """The processes. Windows of one caller go to the first, larger ones are shared by all."""

    def __init__(self, processes: list[asyncio.subprocess.Process]):
        self._processes = processes

    async def measure(self, window: Window) -> Found:
        """Raises LoadError where a call failed, or nothing came back in time."""
        if window.callers < len(self._processes) or window.driver == BARE:
            return await _ask(self._processes[0], window)
        each = Window(**(asdict(window) | {"callers": window.callers // len(self._processes)}))
        parts = await asyncio.gather(*(_ask(process, each) for process in self._processes))
        worst = max(parts, key=lambda part: part.p50_us)
        return Found(sum(part.rate for part in parts), worst.p50_us, worst.p99_us)


@asynccontextmanager
async def loads(count: int = PROCESSES) -> AsyncIterator[Loads]:
    async with AsyncExitStack() as stack:
        yield Loads([await stack.enter_async_context(_process()) for _ in range(count)])


@asynccontextmanager
async def _process() -> AsyncIterator[asyncio.subprocess.Process]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "testbed.child", str(os.getpid()), "benchmarks.load")
    running = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.terminate()
        await running.communicate()  # to the end of what it says: `wait` leaves the pipe to the garbage collector


async def _ask(running: asyncio.subprocess.Process, window: Window) -> Found:
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write(json.dumps(asdict(window)).encode() + b"\n")
    try:
        line = await asyncio.wait_for(running.stdout.readline(), _PATIENCE_SECONDS)
    except TimeoutError:
        running.kill()  # what it says later must not be taken for another window's
        raise LoadError(f"{window.driver}: no answer within {_PATIENCE_SECONDS:g} s") from None
    said = json.loads(line) if line else {"error": "the load process ended"}
    if "error" in said:
        raise LoadError(f"{window.driver}: {said['error']}")
    return Found(**said)


async def run(window: Window) -> Found:
    """Warms up for a share of the window's time on top of it, then counts. Raises what a call raises."""
    subject = Subject.at(Path(window.path))
    if window.driver == BARE:
        return await asyncio.to_thread(_bare, subject, window.callers, window.seconds)
    async with DRIVERS[window.driver](window.address, subject) as connect:
        counting = time.perf_counter() + _WARM_SHARE * window.seconds
        stop, took = counting + window.seconds, list[float]()

        async def caller() -> None:
            call = connect()
            while (started := time.perf_counter()) < stop:
                await call()
                if counting <= (done := time.perf_counter()) < stop:
                    took.append(done - started)

        await asyncio.gather(*(caller() for _ in range(window.callers)))
        return _found(took, window.seconds)


def _bare(subject: Subject, threads: int, seconds: float) -> Found:
    """The network in a loop, by each of so many threads, on one session."""
    session, sample = bare.session(subject.plain), subject.sample
    given = {session.get_inputs()[0].name: sample}
    took: list[list[float]] = [[] for _ in range(threads)]
    counting = time.perf_counter() + _WARM_SHARE * seconds
    stop = counting + seconds

    def work(mine: list[float]) -> None:
        while (started := time.perf_counter()) < stop:
            session.run(None, given)
            if counting <= (done := time.perf_counter()) < stop:
                mine.append(done - started)

    working = [threading.Thread(target=work, args=(mine,)) for mine in took]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    return _found([value for mine in took for value in mine], seconds)


def _found(took: list[float], seconds: float) -> Found:
    if not took:
        raise LoadError("not one request was answered in the window")
    p50, p99 = 1e6 * np.percentile(took, (50, 99))
    return Found(round(len(took) / seconds, 2), round(float(p50), 1), round(float(p99), 1))


async def _serve() -> None:
    """A window for each line that comes in, and a line for each that is done."""
    for line in iter(sys.stdin.readline, ""):
        try:
            said = asdict(await run(Window(**json.loads(line))))
        except Exception as error:  # whatever a server or a client of others may raise
            said = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    process.tune_allocator()
    asyncio.run(_serve())
