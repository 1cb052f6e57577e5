"""Why nobody answers, in the words of whoever mistyped an address."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from testbed import nobody
from tests.tiers import device


@contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """Somebody who gives `reply` to whatever is asked first, as often as asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    connection.recv(1024)
                    connection.sendall(reply)

        Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("target", ["foo", "foo:", "foo:port", ":8001", "127.0.0.1:99999", "127.0.0.1:0"])
def test_what_is_no_address_is_told_by_its_form(target: str) -> None:
    assert "not HOST:PORT" in nobody.why(target)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70])
def test_a_name_that_stands_for_nothing_is_told(host: str) -> None:
    assert nobody.why(f"{host}:8001") == f"the name {host!r} cannot be resolved; check how it is spelt"


def test_a_port_where_nothing_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert nobody.why(f"127.0.0.1:{port}").startswith("nothing listens there")


def test_a_port_that_speaks_http_is_taken_for_the_console() -> None:
    with answering(b"HTTP/1.0 200 OK\r\n\r\n") as target:
        assert "speaks HTTP, but not gRPC: is it the console's" in nobody.why(target)


def test_a_port_that_speaks_something_else_is_not() -> None:
    with answering(b"SSH-2.0-x\r\n") as target:
        assert nobody.why(target).startswith("something listens there")


async def test_a_tier_is_not_taken_for_the_console(tiny: Path) -> None:
    async with device(tiny) as running:
        assert "HTTP" not in nobody.why(running.address)
