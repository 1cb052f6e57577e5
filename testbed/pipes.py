"""What carries the bytes of a link: lanes, pipes and connections.

A connection has two pipes, up (from who connects) and down. The pipes of one direction share a lane, that is one
`Pacer`. A pipe has two threads: the reader stops while about 20 ms of its bytes wait to be serialised (backpressure
on the sender), the writer sleeps until a parcel is due and delivers it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable

from testbed.pacer import MAX_QUANTUM_BYTES, LinkShape, Pacer, Parcel

BACKLOG_SECONDS = 0.02
MAX_PIPE_BYTES = 64 * 1024 * 1024
RECEIVE_BUFFER_BYTES = 256 * 1024
LONGEST_WAIT_SECONDS = 1.0  # a wait ends at least this often, so none is without a deadline
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER with zero seconds: close() sends a reset

Clock = Callable[[], float]


class Lane:
    """One direction of a link: the pacer that all its pipes share, and the lock that guards both."""

    def __init__(self, shape: LinkShape, seed: int, clock: Clock) -> None:
        self.lock = threading.Lock()
        self.clock = clock
        self.pacer = Pacer(shape, clock(), random.Random(seed))
        self.pipes: set[Pipe] = set()
        self.delivered_bytes = 0

    def reshape(self, shape: LinkShape) -> None:
        with self.lock:
            self.pacer.reshape(shape, self.clock())
            self._wake_all()

    def set_carrying(self, carrying: bool) -> None:
        with self.lock:
            self.pacer.set_carrying(carrying, self.clock())
            self._wake_all()

    def _wake_all(self) -> None:
        for pipe in self.pipes:
            pipe.wake.notify_all()


class Pipe:
    """One direction of one connection: from `source` through the lane to `sink`."""

    def __init__(self, lane: Lane, source: socket.socket, sink: socket.socket) -> None:
        self.wake = threading.Condition(lane.lock)
        self._lane = lane
        self._source = source
        self._sink = sink
        self._line: deque[Parcel] = deque()
        self._line_bytes = 0
        self._last: Parcel | None = None
        self._reader_waits_for_writer = False
        self._ended = False
        self._stopped = False
        with lane.lock:
            lane.pipes.add(self)

    def read_all(self) -> None:
        """Take bytes from the source as fast as the link lets them go, until it ends or the pipe stops."""
        # One buffer for all: a `recv` of so many bytes gives most of them back, which leaves holes all over the heap.
        buffer = memoryview(bytearray(MAX_QUANTUM_BYTES))
        while size := self._room():
            try:
                payload, resets = bytes(buffer[: self._source.recv_into(buffer[:size])]), False
            except OSError:
                payload, resets = b"", True
            self.enter(payload, resets=resets)
            if not payload:
                return

    def enter(self, payload: bytes, *, resets: bool = False) -> bool:
        """Put bytes (or the end of the connection) on the link. False: too late, the end has been delivered."""
        with self.wake:
            if self._ended:
                return False
            self._last = self._lane.pacer.send(payload, self._lane.clock(), resets=resets)
            self._line.append(self._last)
            self._line_bytes += len(payload)
            if len(self._line) == 1:
                self.wake.notify_all()
            return True

    def write_all(self) -> bool:
        """Deliver parcels when they are due. True: the end was delivered in order; False: reset or stopped.

        Raises OSError when the sink takes no more.
        """
        while parcel := self._arrived():
            if parcel.resets:
                return False
            if parcel.payload:
                self._sink.sendall(parcel.payload)
            else:
                self._sink.shutdown(socket.SHUT_WR)
            if self._delivered(parcel):
                return True
        return False

    def stop(self) -> None:
        """End both threads of the pipe; what is still on the link is lost."""
        with self.wake:
            self._stopped = True
            self._lane.pipes.discard(self)
            self.wake.notify_all()

    def _room(self) -> int:
        """Wait until the link takes more of this pipe; returns how many bytes, 0 when the pipe has stopped."""
        with self.wake:
            while not self._stopped:
                now = self._lane.clock()
                seconds = self._seconds_to_room(now)
                if seconds <= 0:
                    return self._lane.pacer.quantum(now)
                self.wake.wait(min(seconds, LONGEST_WAIT_SECONDS))
        return 0

    def _seconds_to_room(self, now: float) -> float:
        receiver_is_behind = bool(self._line) and now > self._lane.pacer.due(self._line[0]) + BACKLOG_SECONDS
        self._reader_waits_for_writer = receiver_is_behind or self._line_bytes >= MAX_PIPE_BYTES
        if self._reader_waits_for_writer:
            return LONGEST_WAIT_SECONDS
        # The serialisation clock, not delivery: waiting for delivery, a long fat link loses a tenth of its rate.
        return self._last.finish - BACKLOG_SECONDS - now if self._last else 0.0

    def _arrived(self) -> Parcel | None:
        """Wait for the oldest parcel to be due; it stays on the line until it is delivered."""
        with self.wake:
            while not self._stopped:
                seconds = LONGEST_WAIT_SECONDS
                if self._line:
                    seconds = self._lane.pacer.due(self._line[0]) - self._lane.clock()
                    if seconds <= 0:
                        return self._line[0]
                self.wake.wait(min(seconds, LONGEST_WAIT_SECONDS))
        return None

    def _delivered(self, parcel: Parcel) -> bool:
        """Take the parcel off the line; True when it was the end and nothing (a reset) has come behind it."""
        with self.wake:
            self._line.popleft()
            self._line_bytes -= len(parcel.payload)
            self._lane.delivered_bytes += len(parcel.payload)
            self._ended = not parcel.payload and not self._line
            if self._reader_waits_for_writer:
                self.wake.notify_all()
            return self._ended


def _nothing() -> None:
    pass


def _tune(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may be gone already; its reader will find out
        end.settimeout(None)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a peer may vanish without a word
        # What the link cannot take yet must wait at its sender, not here.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


class Connection:
    """Two connected sockets and the pipes between them; the last of its four threads closes the sockets."""

    def __init__(self, lanes: tuple[Lane, Lane], client: socket.socket, target: socket.socket) -> None:
        self._sockets = (client, target)
        for end in self._sockets:
            _tune(end)
        self._up = Pipe(lanes[0], client, target)
        self._down = Pipe(lanes[1], target, client)
        self._lock = threading.Lock()
        self._threads_left, self._writers_gone = 4, 0
        self._closed: Callable[[], None] = _nothing

    def run(self, spawn: Callable[[Callable[[], None]], None], closed: Callable[[], None] = _nothing) -> None:
        """Carry bytes; `closed` is called at the end.

        The calling thread is one of the four (the others come from `spawn`) and returns when its part is done.
        """
        self._closed = closed
        parts: tuple[Callable[[], None], ...] = (
            lambda: self._write(self._up, self._down),
            lambda: self._write(self._down, self._up),
            self._down.read_all,
        )
        for part in parts:
            try:
                spawn(lambda part=part: self._take_part(part))  # type: ignore[misc]
            except RuntimeError:  # no more threads
                self.abort()
                self._leave()
        self._take_part(self._up.read_all)

    def abort(self, how: int = socket.SHUT_RD) -> None:
        """Reset both sides. SHUT_RD wakes the readers and sends nothing; SHUT_RDWR wakes a stuck writer as well."""
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            with contextlib.suppress(OSError):
                end.shutdown(how)
        self._stop()

    def _write(self, pipe: Pipe, reverse: Pipe) -> None:
        try:
            in_order = pipe.write_all()
        except OSError:
            # The far side is gone. What it said before is still on its way back; the news travels behind that. Where
            # that way has ended likewise, nobody would bring it.
            with self._lock:
                self._writers_gone += 1
                anybody = self._writers_gone < 2
            in_order = reverse.enter(b"", resets=True) and anybody
        if not in_order:
            self.abort()

    def _take_part(self, part: Callable[[], None]) -> None:
        try:
            part()
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._threads_left -= 1
            is_last = not self._threads_left
        if is_last:
            self._stop()
            for end in self._sockets:
                end.close()
            self._closed()

    def _stop(self) -> None:
        self._up.stop()
        self._down.stop()
