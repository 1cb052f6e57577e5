"""`grpc.health.v1` as a tier serves it: whoever watches is told of each change, and let go before the server stops.

Written out because the servicer of grpcio-health-checking forgets everyone who watches a service as soon as one of them
leaves, and keeps a stopping server waiting for those that do not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_Response = health_pb2.HealthCheckResponse
if TYPE_CHECKING:  # the stubs do not know it
    Servicer = object
else:
    Servicer = health_pb2_grpc.HealthServicer


class Health(Servicer):
    """The status of each service by name; '' is the server as a whole. Needs a running event loop."""

    def __init__(self) -> None:
        self._status: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._ended = False

    def set(self, status: int, *services: str) -> None:
        """Tells everyone who watches."""
        self._status |= dict.fromkeys(services, status)
        self._tell()

    def end(self) -> None:
        """Lets go of everyone who watches, once told of the last change."""
        self._ended = True
        self._tell()

    async def Check(self, request: Any, context: Context) -> Any:
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _Response(status=status)

    async def Watch(self, request: Any, context: Context) -> None:
        last = None
        while True:
            changed, ended = self._changed, self._ended
            status = self._status.get(request.service, _Response.SERVICE_UNKNOWN)
            if status != last:
                await context.write(_Response(status=status))
                last = status
            if ended:
                return
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
