"""What the three composition roots share: models and the link above, warming up, announcing, and exit codes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from typing import Any, TypeVar

from services import bundles, interrupt, log, measuring, memory, profile_cache, settings
from services.backlog import Backlog
from services.batch_queue import Batching
from services.bundle import Bundle
from services.client import GrpcNextTier
from services.describing import ASK_SECONDS, AgreesAbove
from services.domain import Plan, Segment, Tier
from services.errors import BundleError, ModelMismatch, NotHeld, OfframpError, SettingsError
from services.gradient_limit import GradientLimit
from services.guard import Service
from services.hardware import Hardware, check_providers, cores
from services.limiter import Limiter
from services.measuring import Progress
from services.model import Model
from services.plan_rules import stage_of
from services.preparing import Preparer
from services.probing import Prober
from services.profile import Expectation, Measured
from services.profile_cache import ProfileCache
from services.secure_channel import Trust
from services.security import Security
from services.server import TierServer
from services.serving import Models, Served
from services.settings import TierSettings
from services.telemetry import Telemetry
from services.tier import TierRuntime
from services.uplink import Uplink

Counted = Callable[[Any], Any]
S = TypeVar("S", bound=TierSettings)

_WORKER = "segment"
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def main(tier: Tier, kind: type[S], serve: Callable[[S], Coroutine[Any, Any, None]]) -> None:
    """Reads settings and serves.

    Exit codes: 0 drained, or told to stop before it served, 1 a bundle that must not be served, 2 settings, 130 Ctrl-C
    before it served or after it did.
    """
    try:
        given = settings.read(kind)
        log.configure(tier.label, given.log_level)
        tune_allocator()
        asyncio.run(serve(given))
        interrupt.deafen()
    except SettingsError as error:
        sys.exit(_complain(tier, error, 2))
    except BundleError as error:
        sys.exit(_complain(tier, error, 1))
    except ToldToStop:
        log.event("stopped")
    except KeyboardInterrupt:
        sys.exit(interrupt.INTERRUPTED)


def _complain(tier: Tier, error: Exception, code: int) -> int:
    print(f"{tier.label}: {error}", file=sys.stderr)
    return code


def uplink(
    tier: Tier, given: TierSettings, counted: Counted | None = None, trust: Trust | None = None
) -> Uplink | None:
    """The link to the tier above, which all models share; None where the settings name no next tier.

    counted: makes of a channel one whose calls somebody counts. trust: None for plaintext.
    """
    if given.next is None:
        return None
    return Uplink(
        tier,
        given.next,
        given.max_message_bytes,
        trust=trust,
        transport=given.transport,
        counted=counted,
        hedge_after_seconds=given.hedge_after_seconds,
    )


def models(tier: Tier, given: TierSettings, above: Uplink | None) -> Models:
    """The models that the settings name, each with a queue of its own; they share workers and the link above.

    Raises BundleError and SettingsError. Needs a running event loop.
    """
    loaded = found(given)
    whole = Limiter(len(loaded) * given.max_in_flight)
    count = side_by_side(given)
    workers, backlog = ThreadPoolExecutor(count, _WORKER), Backlog(count)
    running = [(bundle, runtime(tier, bundle, given, above, workers, backlog)) for bundle in loaded]
    return Models((_served(*one, given, above, whole) for one in running), whole)


def found(given: TierSettings, held: Iterable[Bundle] = ()) -> tuple[Bundle, ...]:
    """The bundles that the settings name, read anew; `held`: see `bundles.load`. Blocks. Raises BundleError."""
    return bundles.load(given.bundle, given.memory_bytes or memory.limit_bytes(), held)


def further(models: Models, bundle: Bundle, given: TierSettings, above: Uplink | None) -> Served:
    """One more model, not yet among `models`, which shares with them what they share. Blocks.

    Raises BundleError and SettingsError.
    """
    first = models.first.runtime
    running = runtime(first.tier, bundle, given, above, first.batcher.workers, first.backlog)
    return _served(bundle, running, given, above, models.limiter)


def _served(bundle: Bundle, running: TierRuntime, given: TierSettings, above: Uplink | None, whole: Limiter) -> Served:
    adaptive = GradientLimit(given.max_in_flight) if given.adaptive_limit else None
    wait = running.backlog.wait_seconds
    queue = Limiter(given.max_in_flight, warm=False, whole=whole, wait=wait, adaptive=adaptive)
    return Served(bundle, running, queue, Preparer(running, above))


def server(
    offered: list[Service], served: Models, given: TierSettings, secured: Security, telemetry: Telemetry
) -> TierServer:
    """The server of a tier, with what its settings say of messages, memory and who may come in."""
    return TierServer(
        offered,
        served.limiter,
        given.max_message_bytes,
        secured,
        telemetry.observers,
        given.memory_bytes,
        given.deadline_seconds,
        first=telemetry.around(offered),
    )


def runtime(
    tier: Tier,
    bundle: Bundle,
    given: TierSettings,
    above: Uplink | None = None,
    workers: Executor | None = None,
    backlog: Backlog | None = None,
) -> TierRuntime:
    """What runs one model, in `workers` or in workers of its own. Raises SettingsError where they do not fit."""
    manifest = bundle.manifest
    if given.holds is not None and given.holds.end > manifest.last:
        raise SettingsError(
            f"holds: {given.holds} ends after the last split point of {manifest.name!r}, {manifest.last}"
        )
    model = Model(bundle, hardware(given), slowdown=given.compute_slowdown)
    spec, classes = manifest.input, len(manifest.labels)
    next_tier = GrpcNextTier(above, classes, spec.preprocessing, max_batch=spec.max_batch) if above else None
    count = side_by_side(given)
    workers, backlog = workers or ThreadPoolExecutor(count, _WORKER), backlog or Backlog(count)
    running = TierRuntime(tier, model, workers, next_tier, given.holds, batching=batching(given), backlog=backlog)
    running.profiler.holds = given.holds
    return running


def hardware(given: TierSettings) -> Hardware:
    """What runs use of this machine. Raises SettingsError where the settings name a provider that is not installed."""
    check_providers(given.providers)
    all_of_it = given.dedicated and "threads" not in given.model_fields_set
    return Hardware(max(int(cores()), 1) if all_of_it else given.threads, given.dedicated, given.providers)


def batching(given: TierSettings) -> Batching:
    """How runs of several requests become one."""
    return Batching(
        given.max_batch_size,
        given.max_queue_delay_microseconds,
        given.default_timeout_microseconds,
        given.timeout_action,
    )


def side_by_side(given: TierSettings) -> int:
    """How many runs this tier does at once: unless settings say so, as many as there are cores for their threads."""
    return given.workers or (1 if given.dedicated else max(int(cores()) // given.threads, 1))


@asynccontextmanager
async def starting(server: TierServer) -> AsyncIterator[None]:
    """Stops `server`, which listens already, where what is left to do before it can serve fails."""
    try:
        yield
    except BaseException:
        await server.drain(0, 0)
        raise


class ToldToStop(Exception):
    """Before it served anything."""


async def warmed(served: Iterable[Served], given: TierSettings, stop: asyncio.Event) -> None:
    """As `warm`, in a thread. Raises ToldToStop soon after `stop` is set."""

    def go_on(share: float) -> None:
        if stop.is_set():
            raise ToldToStop

    await asyncio.to_thread(warm, served, given, progress=go_on)
    go_on(1.0)


def warm(
    served: Iterable[Served], given: TierSettings, idle: bool = True, progress: Progress = lambda share: None
) -> None:
    """Makes every model ready, one after the other. Blocks.

    idle: nothing else runs here, so that what is measured may be kept for the next start. progress: called again and
    again while it measures; may raise, to give it up.
    """
    for each in served:
        started = time.perf_counter()
        get_ready(each.runtime, each.bundle, given, *each.segments, idle=idle, progress=progress)
        each.warmup_seconds = time.perf_counter() - started
        each.limiter.warm = True


def get_ready(
    running: TierRuntime,
    loaded: Bundle,
    given: TierSettings,
    *segments: Segment,
    idle: bool = True,
    progress: Progress = lambda share: None,
) -> None:
    """Learns what runs take on this machine, then builds and runs `segments`. Blocks. idle, progress: see `warm`."""
    if given.profile_seconds:
        measured = _measured(running.model, loaded, given, idle, progress)
        running.profiler.learn(measured.slowed(given.compute_slowdown))
        running.model.pace(Expectation(measured.segments).seconds)
        unknown = len(measuring.unknown(loaded.manifest, measured))
        log.event(
            "profiled",
            model=loaded.manifest.name,
            segments=len(measured.segments),
            codecs=len(measured.codecs),
            unknown_splits=unknown,
        )
    running.warm(*segments)


def _measured(model: Model, loaded: Bundle, given: TierSettings, idle: bool, progress: Progress) -> Measured:
    """What earlier starts on this machine measured, and of what they had no time for as much as this one has."""
    cache, used = ProfileCache(profile_cache.directory(given.profile_cache)), hardware(given)
    machine = profile_cache.this_machine(used)
    kept = found = cache.load(loaded.manifest.model_hash, machine) or Measured()

    def at_full_speed() -> Model:
        return model if given.compute_slowdown == 1 else Model(loaded, used)

    if not measuring.complete(loaded.manifest, found):
        taken = measuring.take(loaded, at_full_speed(), given.profile_seconds, progress=progress, known=found)
        found = found.updated(taken.measured)
    if sizes := measuring.sizes_unknown(loaded.manifest, found, given.max_batch_size):
        found = found.updated(measuring.take_sizes(loaded, at_full_speed(), given.profile_seconds, sizes, progress))
    if idle and found != kept:
        cache.store(loaded.manifest.model_hash, machine, found)
    return found


def check_holds(running: TierRuntime, plan: Plan) -> None:
    """Raises SettingsError where the settings plan for this tier what the settings say it does not hold."""
    try:
        running.check_held(stage_of(plan, running.tier).segment)
    except NotHeld as error:
        raise SettingsError(f"holds: {error}") from None


async def check_above(served: Served, plan: Plan) -> None:
    """Raises BundleError where `plan` runs a part above, and there somebody says that this model is not served.

    Each request would fail there. Who cannot be asked is no reason: requests are answered without them.
    """
    above, tier = served.runtime.next_tier, served.runtime.tier
    goes_on = any(stage.tier > tier and not stage.segment.empty for stage in plan.stages)
    if not goes_on or not isinstance(above, AgreesAbove):
        return
    try:
        await above.agree(ASK_SECONDS, served.manifest.model_hash)
    except ModelMismatch as error:
        raise BundleError(f"{served.bundle.path}: the tier above must load it first; {error}") from None
    except OfframpError:
        return


def probing(above: Uplink | None, stop: asyncio.Event) -> asyncio.Task[None] | None:
    """Probes the link above in the background whenever it is quiet, until `stop`."""
    if above is None:
        return None
    probes = asyncio.create_task(Prober(above).run(stop), name="probes")
    probes.add_done_callback(log.ended)
    return probes


async def close(served: Models, above: Uplink | None, probes: asyncio.Task[None] | None = None) -> None:
    """Lets go of probes, workers and the channel; the server has stopped, so nothing is running."""
    if probes is not None:
        await asyncio.gather(probes, return_exceptions=True)  # an error was logged when it came
    served.close()
    if above is not None:
        await above.close()
    log.event("stopped")


def announce(given: TierSettings, port: int, served: Models, **more: Any) -> None:
    """One line that says the tier is ready, where, with what; `model` and `model_hash` are of the first model."""
    first = served.first.manifest
    log.event(
        "ready",
        process=os.getpid(),
        address=f"{given.listen.rpartition(':')[0]}:{port}",
        model=first.name,
        model_hash=first.model_hash,
        models={f"{m.name}:{m.version}": m.model_hash for m in (each.manifest for each in served)},
        offramp_version=metadata.version("offramp"),
        settings=given.model_dump(mode="json"),
        **more,
    )


def tune_allocator() -> None:
    """Keeps glibc from returning large buffers to the kernel after each message, and from keeping one for each thread.

    Without this every message over 128 KiB is mapped, page-faulted and unmapped again: up to 4 times the time
    of a 1 MiB call. Does nothing where the C library is not glibc.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 256 << 20)
        mallopt(_M_TOP_PAD, 64 << 20)
        mallopt(_M_ARENA_MAX, 2)
