"""The gRPC server of a tier: its services, health, reflection, and a drain that loses no call."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from services.client import DEFAULT_MAX_MESSAGE_BYTES
from services.domain import Deadline
from services.errors import SettingsError
from services.guard import Service
from services.limiter import Limiter

_DRAIN_POLL_SECONDS = 0.02


class TierServer:
    """Serves `services` plus health and reflection on one address. Needs a running event loop."""

    def __init__(self, services: list[Service], limiter: Limiter, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES):
        self._limiter = limiter
        self._names = [service.name for service in services]
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server = grpc.aio.server(options=_server_options(max_message_bytes))
        for service in services:
            handler = grpc.method_handlers_generic_handler(service.name, dict(service.methods))
            self._server.add_generic_rpc_handlers((handler,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME]
        pool = _reflection_pool([service.file for service in services])
        reflection.enable_server_reflection(names, self._server, pool=pool)

    async def start(self, address: str) -> int:
        """Binds and serves; returns the port. Raises SettingsError where the address cannot be bound."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise SettingsError(f"cannot listen on {address}: in use, or not an address of this machine") from None
        self._limiter.warm = False
        await self._server.start()
        await self._health.set("liveness", health_pb2.HealthCheckResponse.SERVING)
        await self._set_readiness(health_pb2.HealthCheckResponse.NOT_SERVING)
        return port

    async def ready(self) -> None:
        """Warm: takes requests, and tells health checks so."""
        self._limiter.warm = True
        await self._set_readiness(health_pb2.HealthCheckResponse.SERVING)

    async def _set_readiness(self, status: Any) -> None:
        for name in ("", "readiness", *self._names):
            await self._health.set(name, status)

    async def drain(self, delay_seconds: float, grace_seconds: float) -> None:
        """Not ready, wait until peers know, refuse new requests, finish those in flight, stop.

        The server stops last: a stopping gRPC server cancels what just arrived, where this one says why it refuses.
        """
        await self._set_readiness(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(delay_seconds)
        self._limiter.draining = True
        deadline = Deadline.after(grace_seconds)
        while self._limiter.in_flight and deadline.remaining() > 0:
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        if deadline.remaining() > 0:  # who was answered last may just have asked again
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await self._server.stop(max(0.0, deadline.remaining()))


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
    ]
