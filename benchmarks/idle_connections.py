"""Connections that say hello and nothing more: how many there may be beside those who want answers."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from dataclasses import dataclass

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4)
"""The connection preface of HTTP/2 and empty settings (RFC 9113, sections 3.4 and 6.5)."""
_SPARE_DESCRIPTORS = 512
_TIMEOUT_SECONDS = 10.0


def raise_descriptor_limit() -> int:
    """Raises how many descriptors this process and those it starts may have, as far as it may; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def possible(wanted: int) -> int:
    """How many of `wanted` connections the limit leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(min(wanted, soft - _SPARE_DESCRIPTORS), 0)


@dataclass(frozen=True, slots=True)
class Opened:
    """Connections that were opened, and what ended the opening of more, if anything did."""

    count: int
    refused: str = ""


@contextlib.contextmanager
def opened(target: tuple[str, int], count: int) -> Iterator[Opened]:
    """`count` idle connections to a gRPC server while the body runs; blocks while opening them."""
    with contextlib.ExitStack() as stack:
        yield _open(stack, target, count)


def _open(stack: contextlib.ExitStack, target: tuple[str, int], count: int) -> Opened:
    for at in range(count):
        try:
            connection = stack.enter_context(socket.create_connection(target, _TIMEOUT_SECONDS))
            connection.sendall(_HELLO)
            if not connection.recv(1):
                return Opened(at, "closed by the server")
        except OSError as error:
            return Opened(at, error.strerror or str(error))
    return Opened(count)
