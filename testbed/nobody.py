"""Why a device agent does not answer, for who asked: to gRPC every reason looks like an outage."""

from __future__ import annotations

import socket

import grpc

from services import tls_hints

_TIMEOUT_SECONDS = 2.0
_DOOR = "the device agent's public door is at 8001 unless set"
_QUESTION = b"GET / HTTP/1.0\r\n\r\n"
_SCHEMES = ("unix:", "dns:", "ipv4:", "ipv6:", "xds:")


def why(target: str, credentials: grpc.ChannelCredentials | None = None) -> str:
    """What is wrong with `target`, HOST:PORT, and what to do about it, in half a sentence. Blocks for seconds."""
    host, _, port = target.rpartition(":")
    if target.startswith(_SCHEMES):
        return "'offramp up' starts one"
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return "it is not HOST:PORT such as 127.0.0.1:8001"
    try:
        socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"the name {host!r} cannot be resolved; check how it is spelt"
    return _reached((host.strip("[]"), int(port)), target, credentials)


def _reached(address: tuple[str, int], target: str, credentials: grpc.ChannelCredentials | None) -> str:
    try:
        with socket.create_connection(address, timeout=_TIMEOUT_SECONDS) as connection:
            welcome = b"" if credentials else _welcome(connection)
    except ConnectionRefusedError:
        return "nothing listens there; 'offramp up' starts one"
    except TimeoutError:
        return "that machine does not answer; check the address and the firewalls on the way"
    except OSError as error:
        return f"it cannot be reached ({error.strerror or error})"
    if welcome.startswith(b"HTTP/1."):
        return f"that port speaks HTTP, but not gRPC: is it the console's, or that of the metrics? {_DOOR}"
    if credentials is not None:
        return "it is away, speaks no TLS, is not signed by --ca, or wants another --cert"
    if tls_hints.why(target, None) is not None:
        return "it speaks TLS: give --ca"
    return f"something listens there, but does not answer as one does; {_DOOR}"


def _welcome(connection: socket.socket) -> bytes:
    """What somebody who speaks HTTP/1 says to a question in that; gRPC hangs up, or says nothing readable."""
    try:
        connection.sendall(_QUESTION)
        return connection.recv(16)
    except OSError:
        return b""
