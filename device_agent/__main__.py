"""The device agent: settings → bundles → models → next tier → agents → server → wait → drain."""

from __future__ import annotations

from services import interrupt

if __name__ == "__main__":
    interrupt.quietly()

from device_agent.agents import Agents
from device_agent.console import Console
from services import process, security
from services.domain import Tier
from services.open_inference.door import OpenInference
from services.reloading import Reloading, reload_signal
from services.server import stop_signal
from services.settings import DeviceSettings
from services.telemetry import Telemetry


async def serve(settings: DeviceSettings) -> None:
    """Runs the device agent until a signal, then drains it."""
    stop, telemetry = stop_signal(), Telemetry(Tier.DEVICE, settings)
    told, secured = reload_signal(stop), security.of(settings)
    uplink = process.uplink(Tier.DEVICE, settings, telemetry.counted, secured.above)
    models = process.models(Tier.DEVICE, settings, uplink)
    agents = Agents(models, uplink, settings, telemetry.metrics.live)
    door = OpenInference(models, settings.max_batch, settings.deadline_seconds, telemetry.observers)
    console = Console(models, telemetry.observers, settings)
    metrics = telemetry.start(models, uplink)
    server = process.server([door.service()], models, settings, secured, telemetry)
    port = await server.start(settings.listen)
    async with process.starting(server):
        await console.start()
        await process.warmed(models, settings, stop)
        await agents.start()
    await server.ready()
    process.announce(settings, port, models, metrics=metrics, console=console.address, plan=str(agents.first.plan()))
    await Reloading(models, settings, uplink, telemetry, agents.join, console.add).until(stop, told)
    await server.drain(settings.drain_delay_seconds, settings.drain_grace_seconds)
    await console.stop()
    await agents.stop()
    await process.close(models, uplink)
    await telemetry.close()


if __name__ == "__main__":
    process.main(Tier.DEVICE, DeviceSettings, serve)
