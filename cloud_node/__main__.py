"""The cloud node: settings → bundle → runtime → server → wait → drain."""

from __future__ import annotations

import asyncio

from services import bundle, process
from services.domain import Segment, Tier
from services.errors import SettingsError
from services.limiter import Limiter
from services.preparing import Preparer
from services.server import TierServer, stop_signal
from services.settings import TierSettings
from services.tier_service import TierService


async def serve(settings: TierSettings) -> None:
    """Runs the cloud node until a signal, then drains it."""
    if settings.next is not None:
        raise SettingsError("next: the cloud is the last tier; leave --next and OFFRAMP_NEXT out")
    stop = stop_signal()
    loaded = bundle.load(settings.bundle)
    runtime, _ = process.runtime(Tier.CLOUD, loaded, settings)
    limiter = Limiter(settings.max_in_flight)
    preparer = Preparer(runtime)
    service = TierService(runtime, limiter, settings.max_batch, settings.deadline_seconds, preparer)
    server = TierServer([service.service()], limiter, settings.max_message_bytes)
    port = await server.start(settings.listen)
    await asyncio.to_thread(process.get_ready, runtime, loaded, settings, Segment(0, loaded.manifest.last))
    await server.ready()
    process.announce(Tier.CLOUD, settings, port, loaded.manifest)
    await stop.wait()
    await server.drain(settings.drain_delay_seconds, settings.drain_grace_seconds)
    preparer.close()
    await process.close(runtime, None)


if __name__ == "__main__":
    process.main(Tier.CLOUD, TierSettings, serve)
