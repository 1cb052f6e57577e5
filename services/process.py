"""What the three composition roots share: building a runtime, announcing it, and exit codes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any, TypeVar

from services import log, measuring, profile_cache, settings
from services.bundle import Bundle, Manifest
from services.client import GrpcNextTier
from services.domain import Plan, Segment, Tier
from services.errors import BundleError, NotHeld, SettingsError
from services.model import Model
from services.plan_rules import stage_of
from services.probing import Prober
from services.profile import Measured
from services.profile_cache import ProfileCache
from services.settings import TierSettings
from services.tier import TierRuntime

S = TypeVar("S", bound=TierSettings)

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def main(tier: Tier, kind: type[S], serve: Callable[[S], Coroutine[Any, Any, None]]) -> None:
    """Reads settings and serves. Exit codes: 0 drained, 1 a bundle that must not be served, 2 settings."""
    try:
        given = settings.read(kind)
        log.configure(tier.label, given.log_level)
        tune_allocator()
        asyncio.run(serve(given))
    except SettingsError as error:
        sys.exit(_complain(tier, error, 2))
    except BundleError as error:
        sys.exit(_complain(tier, error, 1))


def _complain(tier: Tier, error: Exception, code: int) -> int:
    print(f"{tier.label}: {error}", file=sys.stderr)
    return code


def runtime(tier: Tier, bundle: Bundle, given: TierSettings) -> tuple[TierRuntime, GrpcNextTier | None]:
    """The runtime of one tier, and its next tier if the settings name one. Needs a running event loop."""
    manifest = bundle.manifest
    if given.holds is not None and given.holds.end > manifest.last:
        raise SettingsError(f"holds: {given.holds} ends after the last split point, {manifest.last}")
    model = Model(bundle, given.threads, slowdown=given.compute_slowdown)
    next_tier = None
    if given.next is not None:
        next_tier = GrpcNextTier(
            tier,
            given.next,
            len(manifest.labels),
            given.max_message_bytes,
            preprocessing=manifest.input.preprocessing,
        )
    workers = ThreadPoolExecutor(given.workers, thread_name_prefix="segment")
    running = TierRuntime(tier, model, workers, next_tier, given.holds)
    running.profiler.holds = given.holds
    return running, next_tier


def get_ready(running: TierRuntime, loaded: Bundle, given: TierSettings, *segments: Segment) -> None:
    """Learns what runs take on this machine, then builds and runs `segments`. Blocks."""
    if given.profile_seconds:
        measured = _measured(running.model, loaded, given)
        running.profiler.learn(measured.slowed(given.compute_slowdown))
        unknown = len(measuring.unknown(loaded.manifest, measured))
        log.event("profiled", segments=len(measured.segments), codecs=len(measured.codecs), unknown_splits=unknown)
    running.warm(*segments)


def _measured(model: Model, loaded: Bundle, given: TierSettings) -> Measured:
    """What earlier starts on this machine measured, and of what they had no time for as much as this one has."""
    cache = ProfileCache(profile_cache.directory(given.profile_cache))
    machine = profile_cache.this_machine(given.threads)
    found = cache.load(loaded.manifest.model_hash, machine) or Measured()
    if not measuring.complete(loaded.manifest, found):
        at_full_speed = model if given.compute_slowdown == 1 else Model(loaded, given.threads)
        found = found.updated(measuring.take(loaded, at_full_speed, given.profile_seconds, known=found).measured)
        cache.store(loaded.manifest.model_hash, machine, found)
    return found


def check_holds(running: TierRuntime, plan: Plan) -> None:
    """Raises SettingsError where the settings plan for this tier what the settings say it does not hold."""
    try:
        running.check_held(stage_of(plan, running.tier).segment)
    except NotHeld as error:
        raise SettingsError(f"holds: {error}") from None


def probing(next_tier: GrpcNextTier | None, stop: asyncio.Event) -> asyncio.Task[None] | None:
    """Probes the link above in the background whenever it is quiet, until `stop`."""
    if next_tier is None:
        return None
    probes = asyncio.create_task(Prober(next_tier).run(stop), name="probes")
    probes.add_done_callback(log.ended)
    return probes


async def close(running: TierRuntime, next_tier: GrpcNextTier | None, probes: asyncio.Task[None] | None = None) -> None:
    """Lets go of probes, workers and the channel; the server has stopped, so nothing is running."""
    if probes is not None:
        await asyncio.gather(probes, return_exceptions=True)  # an error was logged when it came
    running.close()
    if next_tier is not None:
        await next_tier.close()
    log.event("stopped")


def announce(tier: Tier, given: TierSettings, port: int, manifest: Manifest, **more: Any) -> None:
    """One line that says the tier is ready, where, with what."""
    log.event(
        "ready",
        process=os.getpid(),
        address=f"{given.listen.rpartition(':')[0]}:{port}",
        model=manifest.name,
        model_hash=manifest.model_hash,
        offramp_version=metadata.version("offramp"),
        settings=given.model_dump(mode="json"),
        **more,
    )


def tune_allocator() -> None:
    """Keeps glibc from returning large buffers to the kernel after each message.

    Without this every message over 128 KiB is mapped, page-faulted and unmapped again: up to 4 times the time
    of a 1 MiB call. Does nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, 256 << 20)
    mallopt(_M_TOP_PAD, 64 << 20)
