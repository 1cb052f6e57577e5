"""What a tier tells the world of itself: log lines, series for Prometheus, spans for OpenTelemetry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from services import trace_context
from services.domain import Tier
from services.errors import SettingsError
from services.guard import Service
from services.methods import Around
from services.metrics.calls import Calls
from services.metrics.channel import CountedChannel
from services.metrics.endpoint import Endpoint
from services.metrics.live import Reading, of_batches, of_door, of_link, of_loop, of_model, of_retries, of_upstream
from services.metrics.requests import Metrics, Power
from services.metrics.server_calls import ServerCalls
from services.metrics.triton import TritonNames
from services.observing import LogLines, Observer, Observers
from services.serving import Models, Served
from services.settings import DeviceSettings, TierSettings
from services.uplink import Uplink

if TYPE_CHECKING:
    from services.tracing import Spans


class Telemetry:
    """Whom one tier tells how its requests end, and where that can be read. `start` needs a running event loop."""

    def __init__(self, tier: Tier, given: TierSettings):
        self.metrics = Metrics(tier, metadata.version("offramp"), _power(given))
        self.spans = _spans(tier, given.otlp_endpoint)
        self._triton = TritonNames() if given.compat_metrics == "triton" else None
        self.observers = self._observers()
        self._given = given
        self._calls_above: Calls | None = None
        self._endpoint = Endpoint(self.metrics.registry)

    def around(self, services: Sequence[Service]) -> list[Around]:
        """What counts the calls to a server that offers `services`."""
        return [ServerCalls(Calls("server", self.metrics.registry), services).counted]

    def counted(self, channel: Any) -> Any:
        """`channel`, to a replica of the tier above, with its calls counted."""
        if self._calls_above is None:
            self._calls_above = Calls("client", self.metrics.registry)
        return CountedChannel(channel, self._calls_above)

    def start(self, models: Models, uplink: Uplink | None) -> str | None:
        """Serves metrics of `models` and the link above; returns where, None where the settings say nowhere.

        Raises SettingsError where the address cannot be bound.
        """
        tier, live = self.metrics.tier, self.metrics.live
        live.loop = asyncio.get_running_loop()
        live.add(self._all_told)
        live.add(of_loop(tier, live.loop))
        live.add(of_door(tier, models.limiter, lambda: self._waiting(*models)))
        for served in models:
            self.serve(served)
        if uplink is not None:
            live.add(of_link(tier, uplink.link))
            live.add(of_upstream(tier, uplink.states))
            live.add(of_retries(tier, uplink.retries))
        return self._endpoint.start(self._given.metrics_listen)

    def serve(self, served: Served) -> None:
        """From now on there are metrics of this model, and spans."""
        runtime, manifest, tier = served.runtime, served.manifest, self.metrics.tier
        self.metrics.serve(manifest)
        self.metrics.live.add(of_model(tier, manifest.name, runtime.profiler, lambda: served.warmup_seconds))
        self.metrics.live.add(of_batches(tier, manifest.name, runtime.batcher))
        if self._triton is not None:
            self._triton.serve(manifest, lambda: self._waiting(served))
        if self.spans is not None:
            runtime.hand_on = trace_context.from_tier(tier)

    async def close(self) -> None:
        """Ends what was started, and sends the spans that wait; takes a few seconds at most."""
        self.observers.tell()
        await asyncio.to_thread(self._endpoint.close)
        if self.spans is not None:
            await asyncio.to_thread(self.spans.close)

    def _observers(self) -> Observers:
        told: list[Observer] = [LogLines(), self.metrics]
        if self._triton is not None:
            self.metrics.registry.register(self._triton)
            told.append(self._triton)
        if self.spans is None:
            return Observers(told)
        return Observers([*told, self.spans], trace_context.begin)

    def _all_told(self) -> Iterable[Reading]:
        """Nothing to read, but what is counted up is read after this."""
        self.observers.tell()
        return ()

    def _waiting(self, *models: Served) -> int:
        """Runs that wait for a worker."""
        return sum(served.runtime.batcher.waiting for served in models)


def _power(given: TierSettings) -> Power:
    if not isinstance(given, DeviceSettings):
        return Power()
    return Power(given.compute_watts, given.idle_watts, given.joules_per_byte)


def _spans(tier: Tier, endpoint: str | None) -> Spans | None:
    """Where nothing is to be sent, the libraries for it are not even loaded."""
    if endpoint is None:
        return None
    try:
        from services import tracing
    except ImportError:
        raise SettingsError("otlp_endpoint: sending spans needs 'pip install offramp[otel]'") from None
    return tracing.sending(tier, endpoint)
