"""`GET /metrics` in a thread of its own: Prometheus is answered while the event loop serves requests."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread, Timer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from services import log
from services.errors import SettingsError

PATH = "/metrics"
OFF = "-"
_AT_ONCE = 4
_PATIENCE_SECONDS, _MOST_SECONDS = 5.0, 10.0
_POLL_SECONDS = 0.1


class Endpoint:
    """Serves one registry on one address, from `start` until `close`."""

    def __init__(self, registry: CollectorRegistry):
        self._registry = registry
        self._server: _Server | None = None
        self._thread: Thread | None = None

    def start(self, address: str) -> str | None:
        """Binds HOST:PORT and serves; returns where, or None for `-`. Raises SettingsError where it cannot be bound."""
        if address == OFF:
            return None
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server(host.strip("[]"), int(port), self._registry)
        except OSError:
            raise SettingsError(
                f"metrics cannot be served on {address}: in use, or not an address of this machine; "
                "choose another with --metrics-listen, or - for none"
            ) from None
        self._thread = Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), name="metrics", daemon=True)
        self._thread.start()
        return f"http://{host}:{self._server.server_address[1]}{PATH}"

    def close(self) -> None:
        """Stops answering. Does nothing where nothing was started."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(_PATIENCE_SECONDS)


class _Server(ThreadingMixIn, HTTPServer):
    """A few connections at once, each for a few seconds; more are closed unanswered."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, registry: CollectorRegistry):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.registry = registry
        self._places = BoundedSemaphore(_AT_ONCE)
        super().__init__((host, port), _Scrape)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        late = Timer(_MOST_SECONDS, _cut, (request,))  # each wait of its own is bounded, their number is not
        late.daemon = True
        late.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            late.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked went away, or asked nothing in time."""


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # it ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class _Scrape(BaseHTTPRequestHandler):
    timeout = _PATIENCE_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self._answer(HTTPStatus.NOT_FOUND, b"metrics are at /metrics\n", "text/plain; charset=utf-8")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        try:
            body = encode(self.server.registry)
        except Exception:  # the one place where a fault of a collector ends: told in the log, not to whoever asked
            log.event("failed", logging.ERROR, exc_info=True, task="metrics")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"metrics could not be read\n", "text/plain; charset=utf-8")
            return
        self._answer(HTTPStatus.OK, body, content_type)

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return "offramp"

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""
