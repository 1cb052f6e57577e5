"""The gRPC server of a tier: its services, health, reflection, and a drain that loses no call."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from services import memory
from services.channels import DEFAULT_MAX_MESSAGE_BYTES
from services.domain import Deadline
from services.errors import SettingsError
from services.guard import Service
from services.health import Health
from services.limiter import Limiter
from services.methods import Around, Methods
from services.observing import Observers
from services.room import LOOKAHEAD_BYTES, Room, held
from services.security import Security
from services.triage import Triage

_DRAIN_POLL_SECONDS = 0.02
_MAX_HEALTH_BYTES = 1 << 16


class TierServer:
    """Serves `services` plus health and reflection on one address. Needs a running event loop."""

    def __init__(
        self,
        services: list[Service],
        limiter: Limiter,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        security: Security | None = None,
        observers: Observers | None = None,
        memory_bytes: int | None = None,
        patience_seconds: float = 10.0,
        first: Sequence[Around] = (),
    ):
        """`first`: stands around whatever security puts around the methods. patience_seconds: see `Room`."""
        room = Room.within(memory_bytes or memory.limit_bytes(), max_message_bytes, patience_seconds)
        room.rejected = limiter.rejected
        observers = observers or Observers()
        self._security = security or Security()
        self._limiter = limiter
        self._names = [service.name for service in services]
        self._streams = [service.streams for service in services if service.streams is not None]
        for streams in self._streams:
            streams.within(room)
        self._health = Health()
        self._server = grpc.aio.server(options=_server_options(room.message_bytes))
        self._probes: grpc.aio.Server | None = None
        self.health_port: int | None = None
        gates = self._security.gates(self._names, observers)
        triage = Triage(self._limiter, tell=observers.turned_away)
        self._methods(services, room, triage).serve(self._server, (*first, *gates))

    def _methods(self, services: Sequence[Service], room: Room, triage: Triage) -> Methods:
        """Those of `services`, health and reflection."""
        methods = Methods()
        for service in services:
            kept = {
                name: held(method, room, triage if name in service.computing else None)
                for name, method in service.methods.items()
            }
            methods.add_registered_method_handlers(service.name, kept)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        pool = _reflection_pool([service.file for service in services])
        told = reflection.aio.ReflectionServicer(names, pool=pool)  # type: ignore[attr-defined]
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(told, methods)
        return methods

    async def start(self, address: str) -> int:
        """Binds and serves; returns the port. Raises SettingsError where the address cannot be bound."""
        port = _bind(self._server, address, self._security.credentials())
        if self._security.health_listen is not None:
            self._probes = grpc.aio.server(options=_server_options(_MAX_HEALTH_BYTES))
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probes)
            self.health_port = _bind(self._probes, self._security.health_listen)
            await self._probes.start()
        self._limiter.warm = False
        await self._server.start()
        self._health.set(health_pb2.HealthCheckResponse.SERVING, "liveness")
        self._set_readiness(health_pb2.HealthCheckResponse.NOT_SERVING)
        return port

    async def ready(self) -> None:
        """Warm: takes requests, and tells health checks so."""
        self._limiter.warm = True
        self._set_readiness(health_pb2.HealthCheckResponse.SERVING)

    def _set_readiness(self, status: int) -> None:
        self._health.set(status, "", "readiness", *self._names)

    async def drain(self, delay_seconds: float, grace_seconds: float) -> None:
        """Not ready, wait until peers know, refuse new requests, finish those in flight, stop.

        The server stops last: a stopping gRPC server cancels what just arrived, where this one says why it refuses.
        """
        self._limiter.leaving = True
        self._set_readiness(health_pb2.HealthCheckResponse.NOT_SERVING)
        for streams in self._streams:
            streams.leave()
        await asyncio.sleep(delay_seconds)
        self._limiter.draining = True
        deadline = Deadline.after(grace_seconds)
        while self._limiter.in_flight and deadline.remaining() > 0:
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        if deadline.remaining() > 0:  # who was answered last may just have asked again
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        for streams in self._streams:
            streams.end()
        self._health.end()
        await self._server.stop(max(0.0, deadline.remaining()))
        if self._probes is not None:
            await self._probes.stop(None)


def _bind(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
    """The port. Raises SettingsError where the address cannot be bound."""
    try:
        _try(address)
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except (RuntimeError, OSError):
        raise SettingsError(f"cannot listen on {address}: in use, or not an address of this machine") from None


def _try(address: str) -> None:
    """Binds and lets go again, since gRPC says much, and in its own way, when it cannot. Raises OSError."""
    host, _, port = address.rpartition(":")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


def _reflection_pool(files: list[bytes]) -> DescriptorPool:
    """Reflection reads one pool; the public door's messages live apart from the default one."""
    pool = DescriptorPool()
    for file in (*files, health_pb2.DESCRIPTOR.serialized_pb, reflection_pb2.DESCRIPTOR.serialized_pb):
        pool.AddSerializedFile(file)
    return pool


def stop_signal() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _server_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 120_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_connection_age_ms", 600_000),
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.max_connection_idle_ms", 900_000),
        ("grpc.so_reuseport", 0),
        ("grpc.http2.bdp_probe", 0),  # or each connection may bring as much unread as its link holds
        ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES),
    ]
