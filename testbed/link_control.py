"""A small HTTP door to a running link.

``GET /health`` 200. ``GET /link`` shape and statistics as JSON. ``PUT /link`` changes what it names and answers the
same: ``{"rate": "5mbit", "rtt": "40ms", "jitter": "1ms", "carrying": true, "up": {"rate", "delay", "jitter"}, "down":
{...}}``. A value at the top goes for both directions (`rtt` is halved, `delay` is one way), one under "up" or "down"
for that direction. Everything is checked before anything changes. A rate may be ``trace:NAME`` when the link was
started with a directory of traces.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testbed.pacer import LinkShape
from testbed.pipes import Lane
from testbed.traces import (
    ConstantRate,
    QuantityError,
    Rate,
    TraceError,
    format_duration,
    parse_duration,
    parse_rate,
    read_trace,
)

if TYPE_CHECKING:
    from testbed.links import EmulatedLink

MAX_BODY_BYTES = 64 * 1024
REQUEST_SECONDS = 5.0
SHAPE_KEYS = ("rate", "delay", "jitter")
LINK_KEYS = (*SHAPE_KEYS, "rtt", "carrying", "up", "down")


class ControlError(Exception):
    """A request that is refused: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class LinkControl:
    """What the door does, without HTTP: describe and change one link."""

    def __init__(self, link: EmulatedLink, traces: Path | None = None) -> None:
        self._link = link
        self._traces = traces
        self._lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """The link as JSON; "up" and "down" can be put back as they are."""
        link = self._link
        return {
            "carrying": link.carrying,
            "up": _describe(link.up),
            "down": _describe(link.down),
            "bytes_per_second_now": {"up": _rate_now(link.up), "down": _rate_now(link.down)},
            "stats": asdict(link.stats()),
        }

    def change(self, body: bytes) -> None:
        """Apply a PUT body. Raises ControlError (400) and changes nothing when anything in it is wrong."""
        wanted = _object(body)
        carrying = wanted.get("carrying")
        if "carrying" in wanted and not isinstance(carrying, bool):
            raise ControlError(400, '"carrying" must be true or false.')
        with self._lock:  # two partial changes at once must not undo each other
            try:
                up, down = (self._shape(wanted, name) for name in ("up", "down"))
            except (QuantityError, TraceError) as error:
                raise ControlError(400, str(error)) from error
            self._link.reshape(up, down)
            if carrying is not None:
                (self._link.restore if carrying else self._link.cut)()

    def _shape(self, wanted: dict[str, Any], direction: str) -> LinkShape:
        lane: Lane = getattr(self._link, direction)
        texts = {key: wanted[key] for key in SHAPE_KEYS if key in wanted}
        texts |= _known(wanted.get(direction, {}), SHAPE_KEYS, f'"{direction}"')
        texts = {key: _text(key, value) for key, value in texts.items()}
        shape = lane.pacer.shape
        if "rtt" in wanted:
            shape = replace(shape, delay_seconds=parse_duration(_text("rtt", wanted["rtt"])) / 2)
        if "rate" in texts and texts["rate"] != shape.rate.label:  # the same trace keeps its place
            shape = replace(shape, rate=self._rate(texts["rate"]))
        if "delay" in texts:
            shape = replace(shape, delay_seconds=parse_duration(texts["delay"]))
        if "jitter" in texts:
            shape = replace(shape, jitter_seconds=parse_duration(texts["jitter"]))
        return shape

    def _rate(self, text: str) -> Rate:
        if not text.startswith("trace:"):
            return ConstantRate(parse_rate(text))
        name = text.removeprefix("trace:")
        if self._traces is None:
            raise ControlError(400, "Traces cannot be chosen here: start the link with --traces DIR.")
        if name not in {path.name for path in self._traces.glob("*") if path.is_file()}:
            raise ControlError(400, f"There is no trace {name[:80]!r} in the directory of traces.")
        return read_trace(self._traces / name)


@contextlib.contextmanager
def serve_control(link: EmulatedLink, listen: tuple[str, int], traces: Path | None = None) -> Iterator[tuple[str, int]]:
    """Serve the door at (host, port) while the context lasts; gives the address as bound. Raises OSError."""
    server = _Server(listen, LinkControl(link, traces))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="link-control", daemon=True)
    thread.start()
    try:
        host, port = server.server_address[:2]
        yield str(host), int(port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(1.0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listen: tuple[str, int], control: LinkControl) -> None:
        self.control = control
        self.address_family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
        super().__init__(listen, _Handler)

    def server_bind(self) -> None:
        # The inherited one asks the resolver for the name of the host, which may take seconds.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up or stalls is its own affair."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_PUT(self) -> None:
        self._answer(self._put)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: who changes a link knows it."""

    def _get(self) -> dict[str, Any]:
        if self.path == "/health":
            return {"status": "ok"}
        self._must_be_link()
        return self.server.control.describe()

    def _put(self) -> dict[str, Any]:
        self._must_be_link()
        self.server.control.change(self._body())
        return self.server.control.describe()

    def _must_be_link(self) -> None:
        if self.path != "/link":
            raise ControlError(404, "There are only GET /health, GET /link and PUT /link.")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise ControlError(411, "Send the body with its Content-Length.")
        if len(length) > 9 or int(length) > MAX_BODY_BYTES:
            self.rfile.read(min(int(length[:9]), 16 * MAX_BODY_BYTES))  # or the answer is lost in a reset
            raise ControlError(413, f"The body may have at most {MAX_BODY_BYTES} bytes.")
        return self.rfile.read(int(length))

    def _answer(self, work: Any) -> None:
        try:
            status, answer = 200, work()
        except ControlError as error:
            status, answer = error.status, {"error": str(error)}
        body = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _describe(lane: Lane) -> dict[str, str]:
    shape = lane.pacer.shape
    delay, jitter = format_duration(shape.delay_seconds), format_duration(shape.jitter_seconds)
    return {"rate": shape.rate.label, "delay": delay, "jitter": jitter}


def _rate_now(lane: Lane) -> float:
    with lane.lock:
        return lane.pacer.rate_now(lane.clock())


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ControlError(400, "The body is not JSON.") from error
    return _known(parsed, LINK_KEYS, "The body")


def _known(value: object, keys: tuple[str, ...], what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ControlError(400, f"{what} must be a JSON object.")
    unknown = next((key for key in value if key not in keys), None)
    if unknown is not None:
        raise ControlError(400, f"{what} has an unknown key {unknown[:80]!r}; known are {', '.join(keys)}.")
    return value


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ControlError(400, f'"{key}" must be text, like "20mbit" or "10ms".')
    return value
