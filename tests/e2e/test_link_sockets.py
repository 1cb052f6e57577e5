"""Emulated links over real sockets on the loopback. Bounds are generous: the machine may be busy."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from testbed.links import EmulatedLink, LinkShape, symmetric
from testbed.traces import ConstantRate

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0
RESETS = struct.pack("ii", 1, 0)
FAST = symmetric(1e8, 0.0)
HALF_A_KBIT = LinkShape(ConstantRate(62.5))


@contextmanager
def a_link(up: LinkShape, down: LinkShape) -> Iterator[tuple[EmulatedLink, Callable[[], socket.socket]]]:
    """A link in front of a listener; the callable accepts what arrived there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def arrived() -> socket.socket:
            sock, _ = listener.accept()
            sock.settimeout(PATIENCE)
            return sock

        with EmulatedLink(("127.0.0.1", 0), listener.getsockname(), up, down) as link:
            yield link, arrived


@contextmanager
def a_pair(up: LinkShape, down: LinkShape) -> Iterator[tuple[EmulatedLink, socket.socket, socket.socket]]:
    """A link with one connection through it: (link, client's end, target's end)."""
    with a_link(up, down) as (link, arrived), connect(link) as client, arrived() as target:
        yield link, client, target


def connect(link: EmulatedLink) -> socket.socket:
    client = socket.create_connection(link.address, timeout=PATIENCE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def comes_true(condition: Callable[[], object]) -> bool:
    until = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(condition())


def receive(sock: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count and (part := sock.recv(count - len(got))):
        got += part
    return bytes(got)


def link_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "emulated-link"]


def joined() -> bool:
    """Whether every thread of a link ends within a second."""
    ends = time.monotonic() + 1.0
    for thread in link_threads():
        thread.join(max(0.0, ends - time.monotonic()))
    return not link_threads()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_ten_megabits_carry_ten_megabits(direction: str) -> None:
    with a_pair(*symmetric(1.25e6, 0.010)) as (_, client, target):
        source, sink = (client, target) if direction == "up" else (target, client)
        source.sendall(bytes(375_000))
        sink.recv(1)
        began = time.monotonic()
        receive(sink, 374_999)
        assert 0.25 < time.monotonic() - began < 0.6  # exact: 0.3


def test_a_round_trip_of_twenty_milliseconds_takes_twenty_milliseconds() -> None:
    with a_pair(*symmetric(1.25e7, 0.020)) as (_, client, target):
        seconds = []
        for _ in range(15):
            began = time.monotonic()
            client.sendall(b"ping")
            target.sendall(receive(target, 4))
            assert receive(client, 4) == b"ping"
            seconds.append(time.monotonic() - began)
        assert min(seconds) >= 0.020
        assert sorted(seconds)[7] < 0.030


def test_jitter_reorders_nothing_and_loses_nothing() -> None:
    up = LinkShape(ConstantRate(1.25e6), 0.005, 0.005)
    sent = random.Random(3).randbytes(200_000)
    with a_pair(up, up) as (link, client, target):
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert receive(target, 1 << 20) == sent
        assert link.stats().up_bytes == len(sent)


def test_raising_the_rate_frees_what_is_stalled() -> None:
    with a_pair(HALF_A_KBIT, FAST[1]) as (link, client, target):
        client.sendall(bytes(10_000))  # 160 seconds
        target.settimeout(0.2)
        with pytest.raises(TimeoutError):
            target.recv(1)
        target.settimeout(PATIENCE)
        began = time.monotonic()
        link.reshape(up=FAST[0])
        assert len(receive(target, 10_000)) == 10_000
        assert time.monotonic() - began < 2.0


def test_a_cut_link_carries_nothing_and_drops_nothing() -> None:
    with a_pair(*FAST) as (link, client, target):
        link.cut()
        client.sendall(b"still here")
        target.settimeout(0.2)
        with pytest.raises(TimeoutError):
            target.recv(1)
        link.restore()
        target.settimeout(PATIENCE)
        assert receive(target, 10) == b"still here"


def test_connections_share_the_rate() -> None:
    with a_link(*symmetric(2.5e6, 0.0)) as (link, arrived), ExitStack() as stack:
        pairs = []
        for _ in range(4):
            client = stack.enter_context(connect(link))
            pairs.append((client, stack.enter_context(arrived())))
        link.cut()  # so that all start together
        for client, _ in pairs:
            client.sendall(bytes(125_000))
        began = time.monotonic()
        link.restore()
        assert [len(receive(target, 125_000)) for _, target in pairs] == [125_000] * 4
        assert 0.15 < time.monotonic() - began < 1.0  # exact: 0.2


def test_a_small_message_does_not_wait_for_another_connection_to_finish() -> None:
    with a_link(*symmetric(2.5e5, 0.0)) as (link, arrived), connect(link) as bulk, arrived() as busy:
        bulk.sendall(bytes(1_000_000))  # 4 seconds
        busy.recv(1)
        with connect(link) as client, arrived() as target:
            began = time.monotonic()
            client.sendall(b"ping")
            assert receive(target, 4) == b"ping"
            assert time.monotonic() - began < 1.0


def test_a_half_close_passes_and_the_answer_still_comes_back() -> None:
    with a_pair(*symmetric(1e7, 0.010)) as (_, client, target):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert receive(target, 100) == b"question"
        target.sendall(b"answer")
        target.close()
        assert receive(client, 100) == b"answer"
    assert joined()


@pytest.mark.parametrize("who", ["client", "target"])
def test_a_reset_passes(who: str) -> None:
    with a_pair(*symmetric(1e7, 0.010)) as (_, client, target):
        gone, left = (client, target) if who == "client" else (target, client)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
        gone.close()
        with pytest.raises(ConnectionResetError):
            left.recv(1)
    assert joined()


def test_an_early_answer_arrives_before_the_reset_that_follows_it() -> None:
    with a_pair(FAST[0], LinkShape(ConstantRate(1e8), 0.050)) as (_, client, target):
        client.sendall(bytes(1000))
        receive(target, 1)
        target.sendall(b"refused")
        target.close()  # with unread bytes: a reset
        assert receive(client, 7) == b"refused"
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.parametrize("host", ["127.0.0.1", "x" * 70])
def test_a_target_that_refuses_or_does_not_resolve_resets_the_client(host: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with EmulatedLink(("127.0.0.1", 0), (host, unused.getsockname()[1]), *FAST) as link:
            with pytest.raises(ConnectionResetError), connect(link) as client:  # the reset may come while connecting
                client.recv(1)
            assert link.stats().refused_connections == 1


def test_a_receiver_that_does_not_read_stops_the_sender() -> None:
    with a_pair(*FAST) as (link, client, _):
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(100_000_000))
        began = time.monotonic()
        link.close()
        assert time.monotonic() - began < 1.0
        assert not link_threads()


def test_closing_ends_idle_connections_and_all_threads() -> None:
    with a_pair(*symmetric(1e6, 0.010)) as (link, client, target):
        assert link_threads()
        link.close()
        assert not link_threads()
        for end in (client, target):
            with pytest.raises(ConnectionResetError):
                end.recv(1)
    assert link.stats().open_connections == 0


def test_a_connection_that_both_sides_reset_under_load_leaves_nothing_behind() -> None:
    with a_pair(*symmetric(125_000.0, 0.02)) as (link, client, target):
        for end in (client, target):
            end.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    end.send(bytes(1 << 16))
        assert comes_true(lambda: link.stats().up_bytes and link.stats().down_bytes)
        for end in (client, target):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
            end.close()
        assert comes_true(lambda: not link.stats().open_connections)


def test_threads_end_with_their_connections() -> None:
    with a_link(*FAST) as (link, arrived):
        for _ in range(20):
            with connect(link) as client, arrived() as target:
                client.sendall(b"x")
                assert target.recv(1) == b"x"
                client.close()
                assert target.recv(1) == b""
        assert link.stats().accepted_connections == 20
        assert link.stats().up_bytes == 20
    assert joined()
