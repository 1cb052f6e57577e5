"""Messages ⇄ domain values, and domain errors ⇄ gRPC statuses. Each translation stands here once."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import grpc
import numpy as np
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.domain import (
    DegradedReason,
    HopTrace,
    IntArray,
    Payload,
    Plan,
    Predictions,
    Response,
    Segment,
    Stage,
    Tier,
    Trace,
)
from services.errors import (
    CorruptPayload,
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidInput,
    ModelMismatch,
    ModelNotReady,
    NotHeld,
    NotImplementedHere,
    OfframpError,
    QueueFull,
    TooLarge,
    Unavailable,
    UnknownModel,
    UpstreamUnavailable,
)
from services.pb.offramp.v1 import tier_pb2 as pb
from services.wire_beliefs import link_from_pb, link_to_pb, profile_from_pb, profile_to_pb
from services.wire_names import CODEC_TO_PB, codec_from_pb, tier_from_pb, tier_to_pb

ERROR_DOMAIN = "offramp"
RETRY_PUSHBACK_MS = "50"
_MAX_MESSAGE = 500
"""Characters. Metadata is bounded: an error that quotes its caller at length would otherwise not arrive at all."""
_MAX_DIMENSIONS = 16

_STATUS: dict[type[OfframpError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    CorruptPayload: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    ModelMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    NotHeld: grpc.StatusCode.FAILED_PRECONDITION,
    TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotImplementedHere: grpc.StatusCode.UNIMPLEMENTED,
    QueueFull: grpc.StatusCode.UNAVAILABLE,
    Draining: grpc.StatusCode.UNAVAILABLE,
    ModelNotReady: grpc.StatusCode.UNAVAILABLE,
    UpstreamUnavailable: grpc.StatusCode.UNAVAILABLE,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    InternalError: grpc.StatusCode.INTERNAL,
}
_BY_REASON = {kind.reason: kind for kind in _STATUS}
_BY_STATUS: dict[grpc.StatusCode, type[OfframpError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: UnknownModel,
    grpc.StatusCode.FAILED_PRECONDITION: ModelMismatch,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLarge,
    grpc.StatusCode.UNIMPLEMENTED: NotImplementedHere,
    grpc.StatusCode.UNAVAILABLE: UpstreamUnavailable,
    grpc.StatusCode.CANCELLED: UpstreamUnavailable,  # by a server that stopped; our own never comes as a status
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
DETAILS_KEY = "grpc-status-details-bin"


def status_of(error: OfframpError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """(code, message, trailing metadata) that tell a client about `error`, with an ErrorInfo."""
    code = _STATUS.get(type(error), grpc.StatusCode.INTERNAL)
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN))
    message = str(error)[:_MAX_MESSAGE]
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=[info])
    metadata: tuple[tuple[str, str | bytes], ...] = ((DETAILS_KEY, status.SerializeToString()),)
    if isinstance(error, QueueFull):
        metadata += (("grpc-retry-pushback-ms", RETRY_PUSHBACK_MS),)
    return code, message, metadata


def error_from(code: grpc.StatusCode, message: str, metadata: Mapping[str, str | bytes]) -> OfframpError:
    """The domain error behind a failed call: by its ErrorInfo where there is one, else by its code."""
    kind = _BY_REASON.get(_reason(metadata.get(DETAILS_KEY)), _BY_STATUS.get(code, InternalError))
    return kind(message)


def _reason(details: str | bytes | None) -> str:
    try:
        status = status_pb2.Status.FromString(details) if isinstance(details, bytes) else status_pb2.Status()
    except Exception:  # a foreign peer may put anything here; the code still tells
        return ""
    info = error_details_pb2.ErrorInfo()
    found = any(detail.Unpack(info) for detail in status.details)
    return info.reason if found and info.domain == ERROR_DOMAIN else ""


def plan_to_pb(plan: Plan) -> pb.Plan:
    stages = [
        pb.Stage(
            tier=tier_to_pb(stage.tier),
            start=stage.segment.start,
            end=stage.segment.end,
            codec=CODEC_TO_PB[stage.codec] if stage.tier is not Tier.DEVICE else pb.CODEC_UNSPECIFIED,
        )
        for stage in plan.stages
    ]
    return pb.Plan(stages=stages, expected_seconds=plan.expected_seconds)


def plan_from_pb(message: pb.Plan) -> Plan:
    """Raises InvalidInput for an unknown tier or codec, or more stages than there are tiers."""
    if len(message.stages) > len(Tier):
        raise InvalidInput(f"the plan has {len(message.stages)} stages, there are {len(Tier)} tiers")
    stages = tuple((stage.tier, stage.start, stage.end, stage.codec) for stage in message.stages)
    return _plan(stages, message.expected_seconds if message.HasField("expected_seconds") else None)


@functools.lru_cache(maxsize=256)
def _plan(stages: tuple[tuple[int, int, int, int], ...], expected_seconds: float | None) -> Plan:
    """Devices send the same few plans again and again. What is kept is numbers only, whatever a caller adds."""
    return Plan(
        tuple(
            Stage(
                tier_from_pb(tier),
                Segment(start, end),
                "fp32" if tier == pb.TIER_NAME_DEVICE and not number else codec_from_pb(number),
            )
            for tier, start, end, number in stages
        ),
        expected_seconds,
    )


def payload_to_pb(payload: Payload) -> pb.Activation:
    """All of `payload` but its data, which `framing` joins on without a copy."""
    return pb.Activation(
        shape=payload.shape,
        dtype=pb.DATA_TYPE_FP32,
        codec=CODEC_TO_PB[payload.codec],
        parameters=payload.parameters,
        crc32c=payload.crc32c,
    )


def payload_from_pb(message: pb.Activation) -> Payload:
    """Raises InvalidInput for too many dimensions, a dtype other than FP32 or an unknown codec."""
    if len(message.shape) > _MAX_DIMENSIONS:
        raise InvalidInput(f"the activation has {len(message.shape)} dimensions")
    if message.dtype != pb.DATA_TYPE_FP32:
        raise InvalidInput("the activation's dtype must be FP32")
    name = codec_from_pb(message.codec)
    return Payload(tuple(message.shape), name, message.payload, message.parameters, message.crc32c)


def response_to_pb(response: Response) -> pb.InferReply:
    return pb.InferReply(
        predictions=_predictions_to_pb(response.predictions),
        trace=[_hop_to_pb(hop) for hop in response.trace.hops],
        profiles=[profile_to_pb(profile) for profile in response.profiles],
        links=[link_to_pb(link) for link in response.links],
    )


def response_from_pb(message: pb.InferReply, count: int, classes: int) -> Response:
    """A reply for `count` samples. Raises InternalError where the far side's answer cannot be one."""
    try:
        return Response(
            _predictions_from_pb(message.predictions, count, classes),
            Trace(tuple(_hop_from_pb(hop) for hop in message.trace)),
            tuple(profile_from_pb(profile) for profile in message.profiles),
            tuple(link_from_pb(link) for link in message.links),
        )
    except (ValueError, InvalidInput) as error:
        raise InternalError(f"the next tier's answer makes no sense: {error}") from None


def _predictions_to_pb(answers: Predictions) -> pb.Predictions:
    return pb.Predictions(
        classes=answers.scores.shape[1],
        scores=answers.scores.astype("<f4", copy=False).tobytes(),
        confidences=answers.confidences.astype("<f4", copy=False).tobytes(),
        exits=answers.exits.tolist(),
        tiers=(answers.tiers + 1).tolist(),
        reasons=answers.reasons.tolist(),
    )


def _predictions_from_pb(message: pb.Predictions, count: int, classes: int) -> Predictions:
    if message.classes != classes:
        raise ValueError(f"{message.classes} classes instead of {classes}")
    exits, tiers, reasons = (np.array(rows, np.int32) for rows in (message.exits, message.tiers, message.reasons))
    if not len(exits) == len(tiers) == len(reasons) == count:
        raise ValueError(f"{len(exits)}, {len(tiers)} and {len(reasons)} answers instead of {count}")
    if not (_all_within(tiers, 1, len(Tier)) and _all_within(reasons, 0, max(DegradedReason))):
        raise ValueError("a tier or reason that does not exist")
    scores = np.frombuffer(message.scores, "<f4").reshape(count, classes)
    confidences = np.frombuffer(message.confidences, "<f4").reshape(count)
    if not (np.isfinite(scores).all() and np.isfinite(confidences).all()):
        raise ValueError("scores that are not finite")
    return Predictions(
        scores,
        confidences,
        exits,
        tiers - 1,
        reasons,
    )


def _all_within(numbers: IntArray, low: int, high: int) -> bool:
    return not numbers.size or bool(low <= numbers.min() and numbers.max() <= high)


_HOP_SECONDS = ("queue_seconds", "decode_seconds", "compute_seconds", "encode_seconds", "network_seconds")


def _hop_to_pb(hop: HopTrace) -> pb.HopTrace:
    times = {name: getattr(hop, name) for name in _HOP_SECONDS}
    return pb.HopTrace(tier=tier_to_pb(hop.tier), bytes_up=hop.bytes_up, bytes_down=hop.bytes_down, **times)


def _hop_from_pb(message: pb.HopTrace) -> HopTrace:
    times = {name: getattr(message, name) for name in _HOP_SECONDS}
    if not all(map(math.isfinite, times.values())):
        raise ValueError("times that are not finite")
    return HopTrace(tier_from_pb(message.tier), bytes_up=message.bytes_up, bytes_down=message.bytes_down, **times)
