"""A user-space TCP link with rate, delay and jitter per direction; needs no root, settable while it runs.

It ends TCP on both sides, so there is no slow start, no loss and no handshake delay: deterministic, which is what a
testbed wants. ``python -m testbed.links --help`` runs one as a process.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from testbed.pacer import LinkShape, symmetric
from testbed.pipes import ABORT, LONGEST_WAIT_SECONDS, Clock, Connection, Lane
from testbed.traces import QuantityError, Rate, TraceError, parse_duration, read_rate, read_trace

__all__ = ["EmulatedLink", "LinkShape", "LinkStats", "format_address", "parse_address", "symmetric"]

_M_ARENA_MAX = -8

CONNECT_SECONDS = 3.0
CLOSE_SECONDS = 0.9
EXAMPLE = "python -m testbed.links --listen 127.0.0.1:9001 --target 127.0.0.1:8001 --rate 20mbit --rtt 10ms"

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Payload bytes delivered per direction, and connections: open now, ever accepted, refused by the target."""

    up_bytes: int
    down_bytes: int
    open_connections: int
    accepted_connections: int
    refused_connections: int


class EmulatedLink:
    """Accepts TCP connections at `listen` and carries each to `target`, shaped per direction.

    All connections share the link. The target is resolved when a connection arrives, so it may come up later. When it
    does not answer, the connection is reset. `start` binds (OSError when it cannot); `close` resets every connection
    and ends the threads. Also a context manager.
    """

    def __init__(
        self,
        listen: Address,
        target: Address,
        up: LinkShape,
        down: LinkShape,
        seed: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.up = Lane(up, seed, clock)
        self.down = Lane(down, seed + 1, clock)
        self._listen = listen
        self._target = target
        self._listener: socket.socket | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._connections: set[Connection] = set()
        self._accepted = 0
        self._refused = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> Address:
        """Where it listens: (host, port), the port as bound. Raises RuntimeError before `start`."""
        if self._listener is None:
            raise RuntimeError("The link has no address before it is started.")
        host, port = self._listener.getsockname()[:2]
        return host, port

    @property
    def carrying(self) -> bool:
        """False between `cut` and `restore`."""
        return self.up.pacer.carrying and self.down.pacer.carrying

    def start(self) -> None:
        family = socket.AF_INET6 if ":" in self._listen[0] else socket.AF_INET
        self._listener = socket.create_server(self._listen, family=family, backlog=128)
        self._listener.settimeout(LONGEST_WAIT_SECONDS / 2)
        self._spawn(self._accept_all)

    def reshape(self, up: LinkShape | None = None, down: LinkShape | None = None) -> None:
        """Change one or both directions at once, also for what is on the link already."""
        if up is not None:
            self.up.reshape(up)
        if down is not None:
            self.down.reshape(down)

    def cut(self) -> None:
        """Stop carrying without dropping anything: both sides see a half-open connection."""
        self.up.set_carrying(False)
        self.down.set_carrying(False)

    def restore(self) -> None:
        """Carry again after `cut`, starting with what was waiting."""
        self.up.set_carrying(True)
        self.down.set_carrying(True)

    def stats(self) -> LinkStats:
        with self._lock:
            counts = len(self._connections), self._accepted, self._refused
        return LinkStats(self.up.delivered_bytes, self.down.delivered_bytes, *counts)

    def close(self) -> None:
        """Reset every connection and wait up to a second for the threads."""
        self._closing.set()
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
        self._abort_all(socket.SHUT_RD)
        self._abort_all(socket.SHUT_RDWR)  # what is left is stuck in sending

    def _abort_all(self, how: int) -> None:
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            connection.abort(how)
        ends = time.monotonic() + CLOSE_SECONDS / 2
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _spawn(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name="emulated-link", daemon=True)
        with self._lock:  # `close` must not find a thread that cannot be joined yet
            thread.start()
            self._threads.add(thread)

    def _accept_all(self) -> None:
        assert self._listener is not None
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:  # out of file descriptors, or closing: do not spin
                self._closing.wait(0.05)
                continue
            self._welcome(client)

    def _welcome(self, client: socket.socket) -> None:
        with self._lock:
            self._accepted += 1
        try:
            self._spawn(lambda: self._serve(client))
        except RuntimeError:  # no more threads
            self._refuse(client)

    def _serve(self, client: socket.socket) -> None:
        try:
            target = socket.create_connection(self._target, timeout=CONNECT_SECONDS)
        except (OSError, UnicodeError):  # refused, too slow, or a name that does not resolve (yet)
            self._refuse(client)
            return
        connection = Connection((self.up, self.down), client, target)
        with self._lock:
            self._connections.add(connection)
        if self._closing.is_set():
            connection.abort()
        connection.run(self._spawn, closed=lambda: self._forget(connection))

    def _refuse(self, client: socket.socket) -> None:
        with self._lock:
            self._refused += 1
        with contextlib.suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        client.close()

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)


def parse_address(text: str) -> Address:
    """``HOST:PORT`` (an IPv6 host in brackets). Raises QuantityError."""
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not host or not (port.isascii() and port.isdigit() and len(port) <= 5) or int(port) > 65535:
        raise QuantityError(f"{text[:80]!r} is not an address: write it like 127.0.0.1:8001.")
    return host, int(port)


def format_address(address: Address) -> str:
    """``HOST:PORT``, as `parse_address` reads it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m testbed.links", description="Run one emulated TCP link.", epilog=EXAMPLE)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="where to accept; port 0: any")
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="where to connect to")
    parser.add_argument("--rate", help="both directions: 20mbit (kbit, mbit, gbit) or trace:FILE")
    parser.add_argument("--rtt", default="0ms", help="round trip, half of it each way: 10ms (us, ms, s)")
    parser.add_argument("--jitter", default="0ms", help="plus or minus on each one-way delay")
    parser.add_argument("--up-rate", metavar="RATE", help="towards the target, instead of --rate")
    parser.add_argument("--down-rate", metavar="RATE", help="from the target, instead of --rate")
    parser.add_argument("--up-delay", metavar="DELAY", help="one way, instead of half of --rtt")
    parser.add_argument("--down-delay", metavar="DELAY", help="one way, instead of half of --rtt")
    parser.add_argument("--trace", metavar="FILE", help="the up rate follows this trace, which loops")
    parser.add_argument("--control", metavar="HOST:PORT", help="serve GET and PUT /link and GET /health here")
    parser.add_argument("--traces", metavar="DIR", type=Path, help="traces that --control may choose")
    parser.add_argument("--seed", type=int, default=0, help="of the jitter")
    return parser


def _rate(args: argparse.Namespace, direction: str) -> Rate:
    if direction == "up" and args.trace:
        return read_trace(Path(args.trace))
    text = getattr(args, f"{direction}_rate") or args.rate
    if not text:
        raise QuantityError(f"the {direction} direction has no rate: give --rate or --{direction}-rate.")
    return read_rate(text)


def _shape(args: argparse.Namespace, direction: str) -> LinkShape:
    delay = getattr(args, f"{direction}_delay")
    seconds = parse_duration(delay) if delay else parse_duration(args.rtt) / 2
    return LinkShape(_rate(args, direction), seconds, parse_duration(args.jitter))


def _link(args: argparse.Namespace) -> EmulatedLink:
    up, down = _shape(args, "up"), _shape(args, "down")
    return EmulatedLink(parse_address(args.listen), parse_address(args.target), up, down, args.seed)


def _serve(link: EmulatedLink, control: Address | None, traces: Path | None, stop: socket.socket) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(link)
        ready = {"event": "listening", "address": format_address(link.address)}
        if control:
            from testbed.link_control import serve_control  # http.server doubles the start-up time

            ready["control"] = format_address(stack.enter_context(serve_control(link, control, traces)))
        print(json.dumps(ready), flush=True)
        while not select.select([stop], [], [], LONGEST_WAIT_SECONDS)[0]:
            pass


@contextlib.contextmanager
def _stop_asked() -> Iterator[socket.socket]:
    """Can be read from when SIGTERM or SIGINT has come.

    Not an Event: a signal that comes while this very thread holds the lock in `wait` would wait for it in `set`.
    """
    heard, told = socket.socketpair()
    with heard, told:
        told.setblocking(False)
        signal.set_wakeup_fd(told.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        yield heard
        signal.set_wakeup_fd(-1)


def _share_one_heap() -> None:
    """Else each connection's threads take one of their own from glibc, which connections after it use only in part."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one link until SIGTERM or SIGINT. Exit code 0; 2 for a bad argument; 1 when it cannot listen."""
    parser = _parser()
    args = parser.parse_args(argv)
    _share_one_heap()
    try:
        link = _link(args)
        control = parse_address(args.control) if args.control else None
        if args.traces and not args.traces.is_dir():
            raise QuantityError(f"--traces {args.traces} is not a directory.")
    except (QuantityError, TraceError) as error:
        parser.error(str(error))
    try:
        with _stop_asked() as stop:
            _serve(link, control, args.traces, stop)
    except OSError as error:
        print(f"{parser.prog}: cannot listen: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
