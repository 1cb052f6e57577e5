"""The console's web server, in the agent's own event loop: a page, events for it, and its few calls."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import time
from collections.abc import Coroutine
from importlib import metadata
from typing import Any

from aiohttp import web

from device_agent.console import calls, pictures, safety
from device_agent.console.calls import Calls
from device_agent.console.doorway import MAX_CONNECTIONS, Doorway
from device_agent.console.feed import MAX_SECONDS
from device_agent.console.links import LinkControls
from device_agent.console.listeners import Listener, Listeners, encode
from device_agent.console.state import Json
from device_agent.console.view import Views
from services import log
from services.errors import SettingsError

TICK_SECONDS = 0.25
_TICKS_PER_STATE = 3
_LINK_SECONDS = 2.0
_WRITE_SECONDS = 5.0
_TAIL_SECONDS = 4
_MOST_REQUESTS = 40


class ConsoleServer:
    """Serves the console for `views`. `controls`: the testbed's links; None: nothing here may be changed.

    `start` needs a running event loop; `stop` leaves nothing behind.
    """

    def __init__(self, views: Views, controls: LinkControls | None = None):
        self._views = dict(views)
        self._testbed = controls is not None
        self._calls = Calls(views, controls)
        self._listeners = Listeners()
        self._tasks: list[asyncio.Task[None]] = []
        self._runner: web.AppRunner | None = None
        self._doorway = Doorway(self._handler)
        self._listening: asyncio.Server | None = None
        self._started = time.time()

    async def start(self, listen: str) -> str:
        """Binds `listen`, HOST:PORT, and serves; the page's address. Raises SettingsError where it cannot be bound."""
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        app = self._app({host, socket.gethostname()})
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0, keepalive_timeout=15.0)
        await self._runner.setup()
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._doorway, host, int(port), backlog=MAX_CONNECTIONS
            )
        except OSError as error:
            await self._runner.cleanup()
            await self._calls.close()
            reason = os.strerror(error.errno or 0)
            raise SettingsError(
                f"console_listen: {listen} cannot be used ({reason}); choose another, or - for none"
            ) from None
        self._go_on("console", self._tick())
        if self._testbed:
            self._go_on("console links", self._watch_links())
        return _address(host, self._listening.sockets[0].getsockname()[1])

    def add(self, views: Views) -> None:
        """Shows these, too; a page that is open offers them once it is loaded again."""
        self._calls.add(views)
        self._views |= views

    async def stop(self) -> None:
        """Ends every page's events, then the server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._listeners.end()
        await self._calls.close()
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _handler(self) -> asyncio.BaseProtocol:
        """The web server's side of a new connection."""
        assert self._runner is not None
        assert self._runner.server is not None
        return self._runner.server()

    def _go_on(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(log.ended)
        self._tasks.append(task)

    def _app(self, names: set[str]) -> web.Application:
        app = web.Application(
            middlewares=[self._doorway.noticed, safety.guard(names), calls.sentences, self._calls.bounded],
            client_max_size=pictures.MAX_UPLOAD_BYTES,
        )
        app.on_response_prepare.append(safety.add_headers)
        app.add_routes([web.get("/api/state", self._state), web.get("/api/events", self._events)])
        app.add_routes(self._calls.routes())
        return app

    async def _state(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await self._whole(self._calls.named(request)))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        name = self._calls.named(request)
        with self._listeners.listening(name) as listener:
            whole = encode("whole", await self._whole(name))
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await self._pass_on(listener, response, b"retry: 1000\n\n" + whole)
        return response

    async def _pass_on(self, listener: Listener, response: web.StreamResponse, first: bytes) -> None:
        """Until the page is gone, falls behind, or the console stops."""
        event: bytes | None = first
        while event is not None:
            try:
                await asyncio.wait_for(response.write(event), _WRITE_SECONDS)
            except (ConnectionError, TimeoutError):
                return
            event = await listener.events.get()

    async def _whole(self, name: str) -> Json:
        """All there is to show of one model."""
        view = self._views[name]
        return {
            "model": view.described(),
            "selected": name,
            "models": list(self._views),
            "testbed": self._testbed,
            "started": self._started,
            "version": metadata.version("offramp"),
            "now": await self._now(name),
            "requests": view.requests(),
            "history": view.history(MAX_SECONDS),
        }

    async def _now(self, name: str) -> Json:
        return await self._views[name].now(self._calls.emulated) | {"load": self._calls.load(name)}

    async def _tick(self) -> None:
        """Tells pages of new requests four times a second, and of everything else a little less often."""
        told = {name: view.feed.total for name, view in self._views.items()}
        for tick in itertools.count():
            await asyncio.sleep(TICK_SECONDS)
            for name, view in list(self._views.items()):
                view.look()
                total = view.feed.total
                if name in self._listeners.models:
                    await self._tell_or_log(name, told.get(name, total), tick % _TICKS_PER_STATE == 0)
                told[name] = total

    async def _tell_or_log(self, name: str, told: int, everything: bool) -> None:
        try:
            await self._tell(name, told, everything)
        except Exception:  # what cannot be shown once must not end the showing
            log.event("failed", logging.ERROR, exc_info=True, task="console")

    async def _tell(self, name: str, told: int, everything: bool) -> None:
        view = self._views[name]
        if view.feed.total > told:
            self._listeners.tell(name, "requests", view.requests(max(told, view.feed.total - _MOST_REQUESTS)))
        if everything:
            self._listeners.tell(name, "now", await self._now(name) | {"history": view.history(_TAIL_SECONDS)})

    async def _watch_links(self) -> None:
        """How the emulated links are set, while somebody looks."""
        while True:
            if len(self._listeners) or not self._calls.emulated:
                await self._calls.look_at_links()
            await asyncio.sleep(_LINK_SECONDS)


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
