"""The live console: what happens at this device, and why, on one page. Nothing of it is imported where it is off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from device_agent.console.server import ConsoleServer
    from services.observing import Observers
    from services.serving import Served
    from services.settings import DeviceSettings


class Console:
    """The console of one device, or none: what is switched off is not even imported."""

    def __init__(self, models: Iterable[Served], observers: Observers, settings: DeviceSettings):
        self._models, self._observers, self._settings = models, observers, settings
        self._server: ConsoleServer | None = None
        self.address = "-"

    async def start(self) -> None:
        """Serves the page at `address`. Raises SettingsError where its port is taken."""
        if self._settings.console_listen == "-":
            return
        from device_agent.console.links import LinkControls
        from device_agent.console.server import ConsoleServer
        from device_agent.console.view import views

        controls = LinkControls(self._settings.link_controls) if self._settings.link_controls else None
        self._server = ConsoleServer(views(self._models, self._observers), controls)
        self.address = await self._server.start(self._settings.console_listen)

    def add(self, served: Served) -> None:
        """Shows this model, too."""
        if self._server is not None:
            from device_agent.console.view import views

            self._server.add(views([served], self._observers))

    async def stop(self) -> None:
        """Ends every page's events, then the server."""
        if self._server is not None:
            await self._server.stop()
