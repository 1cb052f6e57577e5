"""Messages ⇄ domain values, and domain errors ⇄ gRPC statuses. Each translation stands here once."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping

import grpc
import numpy as np
from google.rpc import code_pb2, error_details_pb2, status_pb2

from services.domain import DegradedReason, FloatArray, Payload, Plan, Segment, Stage, Tier
from services.errors import (
    MOST_RETRY_SECONDS,
    CorruptPayload,
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidInput,
    ModelMismatch,
    ModelNotReady,
    NotCarried,
    NotHeld,
    NotImplementedHere,
    OfframpError,
    PermissionDenied,
    QueueFull,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnknownModel,
    UpstreamUnavailable,
)
from services.pb.offramp.v1 import tier_pb2 as pb
from services.response import HopTrace, Predictions, Response, Trace
from services.wire_beliefs import link_from_pb, link_to_pb, profile_from_pb, profile_to_pb
from services.wire_names import CODEC_TO_PB, codec_from_pb, tier_from_pb, tier_to_pb

ERROR_DOMAIN = "offramp"
LEAST_PUSHBACK_MS, MOST_PUSHBACK_MS = 25, round(1000 * MOST_RETRY_SECONDS)
_MAX_MESSAGE = 500
"""Characters. Metadata is bounded: an error that quotes its caller at length would otherwise not arrive at all."""
_MAX_DIMENSIONS = 16

_STATUS: dict[type[OfframpError], grpc.StatusCode] = {
    InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    CorruptPayload: grpc.StatusCode.INVALID_ARGUMENT,
    NotCarried: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    ModelMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    NotHeld: grpc.StatusCode.FAILED_PRECONDITION,
    TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NotImplementedHere: grpc.StatusCode.UNIMPLEMENTED,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
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
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAVAILABLE: UpstreamUnavailable,
    grpc.StatusCode.CANCELLED: UpstreamUnavailable,  # by a server that stopped; our own never comes as a status
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}
DETAILS_KEY = "grpc-status-details-bin"


def status_of(error: OfframpError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
    """(code, message, trailing metadata) that tell a client about `error`, with an ErrorInfo."""
    code = _STATUS.get(type(error), grpc.StatusCode.INTERNAL)
    message = str(error)[:_MAX_MESSAGE]
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN))
    pushback: tuple[tuple[str, str | bytes], ...] = ()
    if isinstance(error, QueueFull):
        pushback = (("grpc-retry-pushback-ms", "-1"),)  # to gRPC, that is never
    if isinstance(error, QueueFull) and error.retry_seconds is not None:
        milliseconds = min(max(round(1000 * error.retry_seconds), LEAST_PUSHBACK_MS), MOST_PUSHBACK_MS)
        delay = error_details_pb2.RetryInfo()
        delay.retry_delay.FromMilliseconds(milliseconds)
        status.details.add().Pack(delay)  # a call on a stream has no metadata of its own
        pushback = (("grpc-retry-pushback-ms", str(milliseconds)),)
    return code, message, ((DETAILS_KEY, status.SerializeToString()), *pushback)


def error_from(code: grpc.StatusCode, message: str, metadata: Mapping[str, str | bytes]) -> OfframpError:
    """The domain error behind a failed call: by its ErrorInfo where there is one, else by its code."""
    reason, retry_seconds = _details(metadata.get(DETAILS_KEY))
    kind = _BY_REASON.get(reason, _BY_STATUS.get(code, InternalError))
    if kind is QueueFull:
        return QueueFull(message, retry_seconds)
    return kind(message)


def error_from_status(details: bytes) -> OfframpError:
    """The domain error in a serialised google.rpc.Status, such as comes with a failed call, or instead of a reply."""
    try:
        status = status_pb2.Status.FromString(details)
        code = grpc.StatusCode[code_pb2.Code.Name(status.code)]
    except Exception:  # a foreign peer may put anything here
        return InternalError("the next tier failed, and did not say how")
    return error_from(code, status.message, {DETAILS_KEY: details})


def status_in(trailing: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The serialised google.rpc.Status among what `status_of` has a client told."""
    return next((value for key, value in trailing if key == DETAILS_KEY and isinstance(value, bytes)), b"")


def _details(details: str | bytes | None) -> tuple[str, float | None]:
    """Our reason, empty where there is none, and when to ask again."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    try:
        status = status_pb2.Status.FromString(details) if isinstance(details, bytes) else status_pb2.Status()
        found = [any(detail.Unpack(each) for detail in status.details) for each in (info, retry)]
    except Exception:  # a foreign peer may put anything here; the code still tells
        return "", None
    reason = info.reason if found[0] and info.domain == ERROR_DOMAIN else ""
    return reason, max(retry.retry_delay.ToMilliseconds() / 1000, 0.0) if found[1] else None


@functools.lru_cache(maxsize=256)
def plan_to_pb(plan: Plan) -> pb.Plan:
    """The message is shared: whoever puts it into another copies it, and nobody may change it."""
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
    """Raises InvalidInput for an unknown tier or codec, more stages than tiers, or seconds that cannot be expected."""
    if len(message.stages) > len(Tier):
        raise InvalidInput(f"the plan has {len(message.stages)} stages, there are {len(Tier)} tiers")
    expected = message.expected_seconds if message.HasField("expected_seconds") else None
    if expected is not None and not 0 <= expected < math.inf:  # by it, patience with the tiers above is measured
        raise InvalidInput(f"the plan expects {expected} seconds")
    return _plan(tuple((stage.tier, stage.start, stage.end, stage.codec) for stage in message.stages), expected)


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


def payload_from_pb(message: pb.Activation, data: bytes | memoryview) -> Payload:
    """`data` is the message's payload, which may lie elsewhere.

    Raises InvalidInput for too many dimensions, a dtype other than FP32 or an unknown codec."""
    if len(message.shape) > _MAX_DIMENSIONS:
        raise InvalidInput(f"the activation has {len(message.shape)} dimensions")
    if message.dtype != pb.DATA_TYPE_FP32:
        raise InvalidInput("the activation's dtype must be FP32")
    name = codec_from_pb(message.codec)
    return Payload(tuple(message.shape), name, data, message.parameters, message.crc32c)


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
    exits, tiers, reasons = list(message.exits), list(message.tiers), list(message.reasons)
    if not len(exits) == len(tiers) == len(reasons) == count:
        raise ValueError(f"{len(exits)}, {len(tiers)} and {len(reasons)} answers instead of {count}")
    if not (_TIERS.issuperset(tiers) and _REASONS.issuperset(reasons)):
        raise ValueError("a tier or reason that does not exist")
    numbers: FloatArray = np.frombuffer(message.scores + message.confidences, "<f4")
    if len(numbers) != count * (classes + 1) or len(message.confidences) != 4 * count:
        raise ValueError(f"{len(numbers)} scores and confidences for {count} answers")
    if not math.isfinite(sum(numbers.tolist()) if count <= _FEW else numbers.sum(dtype=np.float64)):
        raise ValueError("scores that are not finite")
    scores, confidences = numbers[: count * classes].reshape(count, classes), numbers[count * classes :]
    answers = np.array((exits, [tier - 1 for tier in tiers], reasons), np.int32)
    return Predictions(scores, confidences, *answers)


_TIERS = frozenset(range(1, len(Tier) + 1))
_REASONS = frozenset(map(int, DegradedReason))
_FEW = 8
"""Answers of so many samples are looked through as Python's numbers in less time than numpy needs to begin."""


def _hop_to_pb(hop: HopTrace) -> pb.HopTrace:
    return pb.HopTrace(
        tier=tier_to_pb(hop.tier),
        queue_seconds=hop.queue_seconds,
        decode_seconds=hop.decode_seconds,
        compute_seconds=hop.compute_seconds,
        encode_seconds=hop.encode_seconds,
        network_seconds=hop.network_seconds,
        bytes_up=hop.bytes_up,
        bytes_down=hop.bytes_down,
    )


def _hop_from_pb(message: pb.HopTrace) -> HopTrace:
    times = (
        message.queue_seconds,
        message.decode_seconds,
        message.compute_seconds,
        message.encode_seconds,
        message.network_seconds,
    )
    if not (min(times) >= 0 and sum(times) < math.inf):  # what is no number shows in the sum
        raise ValueError("times that cannot be")
    return HopTrace(tier_from_pb(message.tier), *times, message.bytes_up, message.bytes_down)
