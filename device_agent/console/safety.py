"""What keeps other pages, and other names, away from the console: headers, the Host header, and who may post."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
ASKED_BY = "X-Offramp-Console"
"""A header that another site's page cannot send without asking first, which is refused."""


def allowed_host(host: str, names: Collection[str]) -> bool:
    """Whether a Host header names this machine: an address, localhost, or one of `names`.

    A page elsewhere can point a name of its own at this machine (DNS rebinding), never an address.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost") or name in map(str.lower, names):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def own_page(request: web.Request) -> bool:
    """Whether a call that is more than looking comes from our own page, or from no page at all."""
    origin = request.headers.get("Origin")
    if ASKED_BY not in request.headers:
        return False
    return origin is None or urlsplit(origin).netloc == request.host


def guard(names: Collection[str]) -> Middleware:
    """Middleware that refuses what is not asked by this machine's own name or page, with a sentence."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not allowed_host(request.headers.get("Host", ""), names):
            return refusal(403, "open the console by its address or as localhost; this name is not known here")
        if request.method not in ("GET", "HEAD") and not own_page(request):
            return refusal(403, f"only the console's own page may do this; other callers send the header {ASKED_BY}: 1")
        return await handler(request)

    return guarded


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal on every response, errors included."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.popall("Server", None)


def refusal(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)
