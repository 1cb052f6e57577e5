"""The files of the page, read once from inside this package: nothing else on the disk can be asked for."""

from __future__ import annotations

from functools import cache
from importlib import resources

from aiohttp import web

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def routes() -> list[web.RouteDef]:
    """The page at /, and what it is made of under /static/."""
    return [web.get("/", _index), web.get("/favicon.ico", _icon), web.get("/static/{name}", _file)]


async def _index(request: web.Request) -> web.Response:
    return _response("index.html")


async def _icon(request: web.Request) -> web.Response:
    return _response("icon.svg")


async def _file(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in _files():
        raise web.HTTPNotFound
    return _response(name)


def _response(name: str) -> web.Response:
    suffix = name[name.rindex(".") :]
    return web.Response(body=_files()[name], content_type=_TYPES[suffix], charset="utf-8")


@cache
def _files() -> dict[str, bytes]:
    folder = resources.files("device_agent.console") / "static"
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if any(file.name.endswith(suffix) for suffix in _TYPES)
    }
