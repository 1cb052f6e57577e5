"""What a page may ask the console for: a journey, a sample, and on a testbed a change of a link and some load."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from device_agent.console import pages
from device_agent.console.journey import Journeys
from device_agent.console.links import LinkControls
from device_agent.console.load import SampleLoad
from device_agent.console.safety import refusal
from device_agent.console.samples import Samples
from device_agent.console.state import Json
from device_agent.console.view import Views
from services import log
from services.errors import CallerError, DeadlineExceeded, InvalidInput, OfframpError, TooLarge, Unavailable

MAX_CALLS = 32
_BODY_SECONDS = 10.0
_STATUS: tuple[tuple[type[OfframpError], int], ...] = (
    (TooLarge, 413),
    (CallerError, 400),
    (Unavailable, 503),
    (DeadlineExceeded, 504),
)


class Calls:
    """The calls that end. `controls`: the testbed's links; None: nothing here may be changed."""

    def __init__(self, views: Views, controls: LinkControls | None):
        self._views: Views = {}
        self._controls = controls
        self._journeys: dict[str, Journeys] = {}
        self._samples: dict[str, Samples] = {}
        self._loads: dict[str, SampleLoad] = {}
        self.add(views)
        self._running = 0
        self.emulated: list[Json | None] = []

    def add(self, views: Views) -> None:
        """Calls may be about these, too."""
        for name, view in views.items():
            self._views[name] = view
            self._journeys[name], self._samples[name] = Journeys(view.model, view), Samples(view.bundle)
            self._loads[name] = SampleLoad(view)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/samples/{number}", self._sample),
            web.post("/api/journey", self._journey),
            web.put("/api/links/{number}", self._change_link),
            web.post("/api/load", self._load),
            *pages.routes(),
        ]

    async def close(self) -> None:
        for load in self._loads.values():
            await load.close()
        for journeys in self._journeys.values():
            journeys.close()
        if self._controls is not None:
            await self._controls.close()

    def named(self, request: web.Request) -> str:
        """The model that a call is about; the first where it names none. Raises InvalidInput."""
        name = request.query.get("model") or next(iter(self._views))
        if name not in self._views:
            raise InvalidInput(f"no model is called {name[:60]!r} here")
        return name

    def load(self, name: str) -> Json | None:
        """The load that runs on a model."""
        return self._loads[name].as_json()

    async def look_at_links(self) -> None:
        """Notes how the emulated links are set."""
        if self._controls is not None:
            self.emulated = list(await self._controls.read())

    @web.middleware
    async def bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """At most 32 at a time; pages that listen are counted where they do."""
        if request.path == "/api/events":
            return await handler(request)
        if self._running >= MAX_CALLS:
            return refusal(503, "the console is busy; try again shortly")
        self._running += 1
        try:
            return await handler(request)
        finally:
            self._running -= 1

    async def _journey(self, request: web.Request) -> web.StreamResponse:
        name = self.named(request)
        request_id, journeys = f"console-{self._views[name].feed.total + 1}", self._journeys[name]
        if (sample := request.query.get("sample")) is not None:
            pixels, truth = await self._samples[name].pixels(_number(sample))
            return web.json_response(await journeys.of_pixels(pixels, request_id) | {"truth": truth})
        return web.json_response(await journeys.of(await _body(request), request_id, "drawn" in request.query))

    async def _sample(self, request: web.Request) -> web.StreamResponse:
        data = await self._samples[self.named(request)].png(_number(request.match_info["number"]))
        return web.Response(body=data, content_type="image/png")

    async def _change_link(self, request: web.Request) -> web.StreamResponse:
        controls = _on_testbed(self._controls)
        changed = await controls.change(_number(request.match_info["number"]), _object(await _body(request)))
        await self.look_at_links()
        return web.json_response(changed)

    async def _load(self, request: web.Request) -> web.StreamResponse:
        _on_testbed(self._controls)
        name, wanted = self.named(request), _object(await _body(request))
        if wanted.get("stop") is True:
            self._loads[name].stop()
        else:
            samples = await self._samples[name].inputs()
            self._loads[name].start(samples, _real(wanted, "per_second"), _real(wanted, "seconds"))
        return web.json_response({"load": self.load(name)})


@web.middleware
async def sentences(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is refused leaves with a status and one sentence."""
    try:
        return await handler(request)
    except OfframpError as error:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return refusal(status, str(error))
    except web.HTTPRequestEntityTooLarge:
        return refusal(413, "the upload is too large; at most 8 MiB")
    except web.HTTPException as error:
        return refusal(error.status, f"there is no such thing here ({error.reason})")
    except Exception:  # the one place where the unexpected ends: logged here, masked for the page
        log.event("failed", logging.ERROR, exc_info=True, request_id=request.path[:100])
        return refusal(500, "the console failed; the agent's log says why")


async def _body(request: web.Request) -> bytes:
    """Raises InvalidInput for one that does not come within ten seconds."""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise InvalidInput("the upload did not arrive in time; try again") from None


def _on_testbed(controls: LinkControls | None) -> LinkControls:
    if controls is None:
        raise InvalidInput("nothing can be changed here: this agent does not run on a testbed (setting link_control)")
    return controls


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise InvalidInput(f"{text[:20]!r} is not a number")
    return int(text)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidInput("the body must be a JSON object")
    return found


def _real(wanted: dict[str, Any], name: str) -> float:
    value = wanted.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(f"{name} must be a number")
    try:
        return float(value)
    except OverflowError:
        raise InvalidInput(f"{name} is beyond all bounds") from None
