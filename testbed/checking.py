"""Health checks: what `offramp health`, container health checks and scripts ask a tier."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def status(
    address: str, service: str, timeout_seconds: float, credentials: grpc.ChannelCredentials | None = None
) -> str:
    """SERVING, NOT_SERVING, or why there is no answer."""
    options = [("grpc.enable_http_proxy", 0)]
    with (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    ) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_seconds)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return f"UNKNOWN: {address} has no service {service!r}"
            return f"{error.code().name}: no health answer from {address}; give HOST:PORT of a tier"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
