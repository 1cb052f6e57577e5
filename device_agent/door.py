"""How a client calls the public door: the methods, their messages, what goes with each, and what gRPC retries."""

from __future__ import annotations

import json
from typing import Any

from services.channels import channel_options
from services.open_inference import messages

_REPLIES = {
    "ModelMetadata": messages.ModelMetadataResponse,
    "ModelInfer": messages.ModelInferResponse,
}
_RETRYING = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [{"service": messages.SERVICE}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
"""What gRPC does by itself: to ask again is safe, since an inference changes nothing."""


def options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Without a buffer for it, gRPC silently never retries a message over 256 KiB."""
    return [
        *channel_options(max_message_bytes),
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        ("grpc.service_config", json.dumps(_RETRYING)),
    ]


AS_STATUS = ("triton_grpc_error", "true")
"""Has a stream end with a status, which says more than a message in it."""


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with every call."""
    return () if token is None else (("authorization", f"Bearer {token}"),)


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def unary(method: str) -> tuple[str, Any, Any]:
    """Path, serialiser and deserialiser of a method with one request and one reply."""
    return f"/{messages.SERVICE}/{method}", _serialize, _REPLIES[method].FromString


def streaming() -> tuple[str, Any, Any]:
    """The same of the method whose answers come one by one."""
    return f"/{messages.SERVICE}/ModelStreamInfer", _serialize, messages.ModelStreamInferResponse.FromString
