"""The cloud node: settings → bundles → models → server → wait → drain."""

from __future__ import annotations

from services import interrupt

if __name__ == "__main__":
    interrupt.quietly()

from services import process, security
from services.domain import Tier
from services.errors import SettingsError
from services.open_inference.door import OpenInference
from services.reloading import Reloading, reload_signal
from services.server import stop_signal
from services.settings import TierSettings
from services.telemetry import Telemetry
from services.tier_service import TierService


async def serve(settings: TierSettings) -> None:
    """Runs the cloud node until a signal, then drains it."""
    if settings.next is not None:
        raise SettingsError("next: the cloud is the last tier; leave --next and OFFRAMP_NEXT out")
    stop, telemetry = stop_signal(), Telemetry(Tier.CLOUD, settings)
    told, secured = reload_signal(stop), security.of(settings)
    models = process.models(Tier.CLOUD, settings, None)
    service = TierService(models, settings.max_batch, settings.deadline_seconds, telemetry.observers)
    door = OpenInference(models, settings.max_batch, settings.deadline_seconds, telemetry.observers)
    metrics = telemetry.start(models, None)
    server = process.server([service.service(), door.service()], models, settings, secured, telemetry)
    port = await server.start(settings.listen)
    async with process.starting(server):
        await process.warmed(models, settings, stop)
    await server.ready()
    process.announce(settings, port, models, metrics=metrics)
    await Reloading(models, settings, None, telemetry).until(stop, told)
    await server.drain(settings.drain_delay_seconds, settings.drain_grace_seconds)
    await process.close(models, None)
    await telemetry.close()


if __name__ == "__main__":
    process.main(Tier.CLOUD, TierSettings, serve)
