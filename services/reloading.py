"""New bundles while a tier runs: at SIGHUP it reads its directories again, and serves what is new beside the rest.

All of what is new or, where anything at all is wrong, nothing. What is served stays so until the tier ends, also where
it is no longer on disk: requests under way, and tiers below that have not heard of the new version, need it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from services import log, process
from services.bundle import Bundle
from services.errors import BundleError, OfframpError, SettingsError
from services.front import FixedFront
from services.serving import Models, Served
from services.settings import TierSettings
from services.telemetry import Telemetry
from services.uplink import Uplink

_STDERR = 2

Warm = Callable[[], Awaitable[None]]
Join = Callable[[Sequence[Served], Warm], Awaitable[None]]
"""Makes new models ready by calling the second, and what belongs to them before and after that; raises, or all is."""


class _GivenUp(Exception):
    """Nobody waits for these models any more."""


def reload_signal(stop: asyncio.Event) -> asyncio.Event:
    """An event that SIGHUP sets. One that comes as the terminal closes that shows the log sets `stop`."""
    told, loop, shown = asyncio.Event(), asyncio.get_running_loop(), os.isatty(_STDERR)

    def on_signal(number: int, frame: object) -> None:
        closed = shown and not os.isatty(_STDERR)
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(stop.set if closed else told.set)

    signal.signal(signal.SIGHUP, on_signal)  # and not by the loop, which sets it back to what ends the process
    return told


async def only_ready(new: Sequence[Served], warm: Warm) -> None:
    """Joins where nobody plans."""
    for each in new:
        if isinstance(each.front, FixedFront):
            await process.check_above(each, each.front.plan)
    await warm()


class Reloading:
    """Loads what is new whenever it is told to, once at a time.

    join: see `Join`. shown: told of each new model just before it is served, on the event loop; must not raise.
    """

    def __init__(
        self,
        models: Models,
        given: TierSettings,
        above: Uplink | None,
        telemetry: Telemetry,
        join: Join = only_ready,
        shown: Callable[[Served], None] = lambda served: None,
    ):
        self._models, self._given, self._above = models, given, above
        self._join = join
        self._telemetry, self._shown = telemetry, shown

    async def until(self, stop: asyncio.Event, told: asyncio.Event) -> None:
        """Reloads each time `told` is set, until `stop`; what is under way then is given up."""
        work = asyncio.create_task(self._go_on(told), name="reload")
        work.add_done_callback(log.ended)
        await stop.wait()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    async def once(self) -> str:
        """One reload, with its log line and its count; how it ended. Whatever is found, what is served stays."""
        try:
            outcome, said = await self._load()
            log.event("reload", outcome=outcome, **said)
        except OfframpError as error:
            outcome = "refused"
            log.event("reload", logging.ERROR, outcome=outcome, reason=str(error))
        except Exception as error:  # a fault of ours, or no memory: nothing that must end what is served
            outcome = "refused"
            log.event("reload", logging.ERROR, error, outcome=outcome, reason=repr(error)[:300])
        self._telemetry.metrics.reloads[outcome].inc()
        return outcome

    async def _go_on(self, told: asyncio.Event) -> None:
        while await told.wait():
            told.clear()
            await self.once()

    async def _load(self) -> tuple[str, dict[str, Any]]:
        held = [each.bundle for each in self._models]
        found = await asyncio.to_thread(process.found, self._given, held)
        new = [each for each in found if not any(each is known for known in held)]
        if new:
            await self._serve(new)
        gone = [each for each in held if not any(each is still for still in found)]
        said = {"loaded": _called(new), "served": _called((*held, *new)), "served_but_gone": _called(gone)}
        return "loaded" if new else "unchanged", said

    async def _serve(self, new: Sequence[Bundle]) -> None:
        """All of them from one moment on, or none. Raises BundleError."""
        served: list[Served] = []
        try:
            for bundle in new:
                served.append(await asyncio.to_thread(self._further, bundle))
            await self._join(served, lambda: self._warm(served))
        except BaseException as error:
            for each in served:
                each.runtime.builder.close()
            if isinstance(error, SettingsError):  # it names a setting, which fits what is served
                raise BundleError(f"{', '.join(str(bundle.path) for bundle in new)}: {error}") from None
            raise
        for each in served:
            self._telemetry.serve(each)
            self._shown(each)
        self._models.add(served)

    async def _warm(self, served: Sequence[Served]) -> None:
        """In a thread, which ends soon after this is cancelled: the process cannot end before all of its threads."""
        given_up = threading.Event()

        def go_on(share: float) -> None:
            if given_up.is_set():
                raise _GivenUp

        try:
            await asyncio.to_thread(process.warm, served, self._given, idle=False, progress=go_on)
        finally:
            given_up.set()

    def _further(self, bundle: Bundle) -> Served:
        return process.further(self._models, bundle, self._given, self._above)


def _called(bundles: Iterable[Bundle]) -> dict[str, str]:
    """Hashes by name and version."""
    return {f"{m.name}:{m.version}": m.model_hash for m in (each.manifest for each in bundles)}
