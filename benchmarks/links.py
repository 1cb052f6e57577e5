"""Emulated links, asked against got: bulk rate per direction and the round trip of a small message.

Run: ``python benchmarks/links.py [--json FILE]``. The link is its own process, as in a real run, and is reshaped
through its control door between cells. Exit code 1 when a cell misses its bar (rate 5 %, delay 2 ms).
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RATES_MBIT = (1.0, 10.0, 50.0, 200.0)
ROUND_TRIPS_MS = (0.0, 10.0, 40.0)
RATE_BAR = 0.05
DELAY_BAR_MS = 2.0
BULK_SECONDS = 1.0
PINGS = 40
PING_BYTES = 64
CHUNK_BYTES = 64 * 1024
DEADLINE_SECONDS = 20.0
HEADER = struct.Struct("<cQ")  # what to do (b"p"ing, b"u"p, b"d"own) and how many bytes
RATE = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Cell:
    """One link that was asked for, and what came through it."""

    asked_mbit: float
    asked_rtt_ms: float
    up_mbit: float
    down_mbit: float
    rtt_p50_ms: float
    rtt_p95_ms: float
    expected_rtt_ms: float

    @property
    def rate_error(self) -> float:
        """The larger of the two directions' relative errors, with its sign."""
        errors = [got / self.asked_mbit - 1 for got in (self.up_mbit, self.down_mbit)]
        return max(errors, key=abs)

    @property
    def delay_error_ms(self) -> float:
        """Of the median round trip."""
        return self.rtt_p50_ms - self.expected_rtt_ms

    @property
    def holds(self) -> bool:
        return abs(self.rate_error) <= RATE_BAR and abs(self.delay_error_ms) <= DELAY_BAR_MS


def receive(sock: socket.socket, count: int) -> bytes:
    """Exactly count bytes. Raises ConnectionError when the other side ends before."""
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(count - len(parts))
        if not part:
            raise ConnectionError("The connection ended early.")
        parts += part
    return bytes(parts)


def received_mbit(sock: socket.socket, count: int) -> float:
    """Receive count bytes; megabits per second from the first arrival to the last."""
    first = len(sock.recv(CHUNK_BYTES))
    began = time.perf_counter()
    left = count - first
    while left:
        got = len(sock.recv(min(left, CHUNK_BYTES)))
        if not got:
            raise ConnectionError("The connection ended early.")
        left -= got
    return (count - first) * 8 / (time.perf_counter() - began) / 1e6


def answer(sock: socket.socket) -> None:
    """The far end of the link: does what the header says until the client leaves."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with sock, contextlib.suppress(ConnectionError):
        while True:
            what, count = HEADER.unpack(receive(sock, HEADER.size))
            if what == b"p":
                sock.sendall(receive(sock, count))
            elif what == b"u":
                sock.sendall(RATE.pack(received_mbit(sock, count)))
            else:
                sock.sendall(bytes(count))


@contextlib.contextmanager
def far_end() -> Iterator[int]:
    """A server for `answer` on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=answer, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def link_process(target_port: int) -> Iterator[dict[str, str]]:
    """A link in its own process; gives its addresses."""
    command = [sys.executable, "-m", "testbed.links", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    command += ["--target", f"127.0.0.1:{target_port}", "--rate", "1mbit"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(DEADLINE_SECONDS)


def reshape(control: str, mbit: float, round_trip_ms: float) -> None:
    connection = http.client.HTTPConnection(control, timeout=DEADLINE_SECONDS)
    connection.request("PUT", "/link", json.dumps({"rate": f"{mbit:g}mbit", "rtt": f"{round_trip_ms:g}ms"}))
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(response.read().decode())
    connection.close()


def ping_ms(sock: socket.socket) -> float:
    began = time.perf_counter()
    sock.sendall(HEADER.pack(b"p", PING_BYTES) + bytes(PING_BYTES))
    receive(sock, PING_BYTES)
    return (time.perf_counter() - began) * 1e3


def measure(address: str, mbit: float, round_trip_ms: float) -> Cell:
    """Pings and both bulk directions over one connection."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ping_ms(sock)  # connects to the far end and starts the threads of the connection
        pings = [ping_ms(sock) for _ in range(PINGS)]
        count = int(mbit * 1e6 / 8 * BULK_SECONDS)
        sock.sendall(HEADER.pack(b"u", count) + bytes(count))
        (up,) = RATE.unpack(receive(sock, RATE.size))
        sock.sendall(HEADER.pack(b"d", count))
        down = received_mbit(sock, count)
    wire_bytes = HEADER.size + 2 * PING_BYTES
    expected = round_trip_ms + wire_bytes * 8 / (mbit * 1e3)
    p95 = statistics.quantiles(pings, n=20)[-1]
    return Cell(mbit, round_trip_ms, up, down, statistics.median(pings), p95, expected)


HEADS = ("Mbit/s", "up", "down", "error", "RTT ms", "+bytes", "p50", "p95", "error ms", "bar")


def row(cell: Cell) -> list[str]:
    rates = [
        f"{cell.asked_mbit:g}",
        f"{cell.up_mbit:.2f}",
        f"{cell.down_mbit:.2f}",
        f"{cell.rate_error:+.1%}",
    ]
    asked = [f"{cell.asked_rtt_ms:g}", f"{cell.expected_rtt_ms:.2f}"]
    got = [f"{cell.rtt_p50_ms:.2f}", f"{cell.rtt_p95_ms:.2f}", f"{cell.delay_error_ms:+.2f}"]
    return [*rates, *asked, *got, "ok" if cell.holds else "MISSED"]


def print_table(cells: list[Cell]) -> None:
    """With rich where it is installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for line in (HEADS, *map(row, cells)):
            print("".join(f"{value:>9}" for value in line))
        return
    table = Table(title="Emulated link: asked against got", box=None)
    for head in HEADS:
        table.add_column(head, justify="right", no_wrap=True)
    for cell in cells:
        table.add_row(*row(cell))
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cells here")
    args = parser.parse_args()
    cells = []
    with far_end() as port, link_process(port) as link:
        for mbit in RATES_MBIT:
            for round_trip in ROUND_TRIPS_MS:
                reshape(link["control"], mbit, round_trip)
                cells.append(measure(link["address"], mbit, round_trip))
    print_table(cells)
    if args.json:
        results = [asdict(cell) | {"rate_error": cell.rate_error, "holds": cell.holds} for cell in cells]
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0 if all(cell.holds for cell in cells) else 1


if __name__ == "__main__":
    sys.exit(main())
