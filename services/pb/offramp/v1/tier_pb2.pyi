from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TierName(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TIER_NAME_UNSPECIFIED: _ClassVar[TierName]
    TIER_NAME_DEVICE: _ClassVar[TierName]
    TIER_NAME_EDGE: _ClassVar[TierName]
    TIER_NAME_CLOUD: _ClassVar[TierName]

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_FP32: _ClassVar[Codec]
    CODEC_FP32_ZSTD: _ClassVar[Codec]
    CODEC_FP16: _ClassVar[Codec]
    CODEC_FP16_ZSTD: _ClassVar[Codec]
    CODEC_INT8: _ClassVar[Codec]
    CODEC_INT8_ZSTD: _ClassVar[Codec]
    CODEC_INT8_BITMAP: _ClassVar[Codec]
    CODEC_INT4: _ClassVar[Codec]
    CODEC_INT4_ZSTD: _ClassVar[Codec]
    CODEC_INT4_BITMAP: _ClassVar[Codec]
    CODEC_INT3: _ClassVar[Codec]
    CODEC_INT3_ZSTD: _ClassVar[Codec]
    CODEC_INT3_BITMAP: _ClassVar[Codec]
    CODEC_INT2: _ClassVar[Codec]
    CODEC_INT2_ZSTD: _ClassVar[Codec]
    CODEC_INT2_BITMAP: _ClassVar[Codec]
    CODEC_PIXELS: _ClassVar[Codec]
    CODEC_PIXELS_ZSTD: _ClassVar[Codec]
    CODEC_PIXELS_WEBP: _ClassVar[Codec]
    CODEC_PNG: _ClassVar[Codec]
    CODEC_JPEG90: _ClassVar[Codec]
    CODEC_JPEG75: _ClassVar[Codec]
    CODEC_WEBP80: _ClassVar[Codec]

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FP32: _ClassVar[DataType]

class DegradedReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEGRADED_REASON_NONE: _ClassVar[DegradedReason]
    DEGRADED_REASON_DEADLINE: _ClassVar[DegradedReason]
    DEGRADED_REASON_UPSTREAM_UNAVAILABLE: _ClassVar[DegradedReason]
    DEGRADED_REASON_UPSTREAM_OVERLOADED: _ClassVar[DegradedReason]
    DEGRADED_REASON_UPSTREAM_DRAINING: _ClassVar[DegradedReason]
    DEGRADED_REASON_UPSTREAM_MISMATCH: _ClassVar[DegradedReason]
    DEGRADED_REASON_UPSTREAM_ERROR: _ClassVar[DegradedReason]
TIER_NAME_UNSPECIFIED: TierName
TIER_NAME_DEVICE: TierName
TIER_NAME_EDGE: TierName
TIER_NAME_CLOUD: TierName
CODEC_UNSPECIFIED: Codec
CODEC_FP32: Codec
CODEC_FP32_ZSTD: Codec
CODEC_FP16: Codec
CODEC_FP16_ZSTD: Codec
CODEC_INT8: Codec
CODEC_INT8_ZSTD: Codec
CODEC_INT8_BITMAP: Codec
CODEC_INT4: Codec
CODEC_INT4_ZSTD: Codec
CODEC_INT4_BITMAP: Codec
CODEC_INT3: Codec
CODEC_INT3_ZSTD: Codec
CODEC_INT3_BITMAP: Codec
CODEC_INT2: Codec
CODEC_INT2_ZSTD: Codec
CODEC_INT2_BITMAP: Codec
CODEC_PIXELS: Codec
CODEC_PIXELS_ZSTD: Codec
CODEC_PIXELS_WEBP: Codec
CODEC_PNG: Codec
CODEC_JPEG90: Codec
CODEC_JPEG75: Codec
CODEC_WEBP80: Codec
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FP32: DataType
DEGRADED_REASON_NONE: DegradedReason
DEGRADED_REASON_DEADLINE: DegradedReason
DEGRADED_REASON_UPSTREAM_UNAVAILABLE: DegradedReason
DEGRADED_REASON_UPSTREAM_OVERLOADED: DegradedReason
DEGRADED_REASON_UPSTREAM_DRAINING: DegradedReason
DEGRADED_REASON_UPSTREAM_MISMATCH: DegradedReason
DEGRADED_REASON_UPSTREAM_ERROR: DegradedReason

class Stage(_message.Message):
    __slots__ = ("tier", "start", "end", "codec")
    TIER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    tier: TierName
    start: int
    end: int
    codec: Codec
    def __init__(self, tier: _Optional[_Union[TierName, str]] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., codec: _Optional[_Union[Codec, str]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("stages", "expected_seconds")
    STAGES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    expected_seconds: float
    def __init__(self, stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ..., expected_seconds: _Optional[float] = ...) -> None: ...

class Activation(_message.Message):
    __slots__ = ("shape", "dtype", "codec", "parameters", "crc32c", "payload")
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: DataType
    codec: Codec
    parameters: bytes
    crc32c: int
    payload: bytes
    def __init__(self, shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[_Union[DataType, str]] = ..., codec: _Optional[_Union[Codec, str]] = ..., parameters: _Optional[bytes] = ..., crc32c: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Members(_message.Message):
    __slots__ = ("request_ids",)
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    request_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class InferRequest(_message.Message):
    __slots__ = ("request_id", "model_hash", "plan", "at", "remaining_seconds", "thresholds", "traceparent", "members", "priority", "activation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    REMAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_hash: str
    plan: Plan
    at: int
    remaining_seconds: float
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    traceparent: str
    members: Members
    priority: int
    activation: Activation
    def __init__(self, request_id: _Optional[str] = ..., model_hash: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., at: _Optional[int] = ..., remaining_seconds: _Optional[float] = ..., thresholds: _Optional[_Iterable[float]] = ..., traceparent: _Optional[str] = ..., members: _Optional[_Union[Members, _Mapping]] = ..., priority: _Optional[int] = ..., activation: _Optional[_Union[Activation, _Mapping]] = ...) -> None: ...

class Predictions(_message.Message):
    __slots__ = ("classes", "scores", "confidences", "exits", "tiers", "reasons")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    EXITS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    classes: int
    scores: bytes
    confidences: bytes
    exits: _containers.RepeatedScalarFieldContainer[int]
    tiers: _containers.RepeatedScalarFieldContainer[TierName]
    reasons: _containers.RepeatedScalarFieldContainer[DegradedReason]
    def __init__(self, classes: _Optional[int] = ..., scores: _Optional[bytes] = ..., confidences: _Optional[bytes] = ..., exits: _Optional[_Iterable[int]] = ..., tiers: _Optional[_Iterable[_Union[TierName, str]]] = ..., reasons: _Optional[_Iterable[_Union[DegradedReason, str]]] = ...) -> None: ...

class HopTrace(_message.Message):
    __slots__ = ("tier", "queue_seconds", "decode_seconds", "compute_seconds", "encode_seconds", "network_seconds", "bytes_up", "bytes_down")
    TIER_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BYTES_UP_FIELD_NUMBER: _ClassVar[int]
    BYTES_DOWN_FIELD_NUMBER: _ClassVar[int]
    tier: TierName
    queue_seconds: float
    decode_seconds: float
    compute_seconds: float
    encode_seconds: float
    network_seconds: float
    bytes_up: int
    bytes_down: int
    def __init__(self, tier: _Optional[_Union[TierName, str]] = ..., queue_seconds: _Optional[float] = ..., decode_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., encode_seconds: _Optional[float] = ..., network_seconds: _Optional[float] = ..., bytes_up: _Optional[int] = ..., bytes_down: _Optional[int] = ...) -> None: ...

class SegmentTime(_message.Message):
    __slots__ = ("start", "end", "batch_size", "seconds")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    batch_size: int
    seconds: float
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ..., batch_size: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class TierProfile(_message.Message):
    __slots__ = ("tier", "queue_seconds", "segments", "codecs", "slowdown", "holds")
    TIER_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    tier: TierName
    queue_seconds: float
    segments: _containers.RepeatedCompositeFieldContainer[SegmentTime]
    codecs: _containers.RepeatedCompositeFieldContainer[CodecCost]
    slowdown: float
    holds: Span
    def __init__(self, tier: _Optional[_Union[TierName, str]] = ..., queue_seconds: _Optional[float] = ..., segments: _Optional[_Iterable[_Union[SegmentTime, _Mapping]]] = ..., codecs: _Optional[_Iterable[_Union[CodecCost, _Mapping]]] = ..., slowdown: _Optional[float] = ..., holds: _Optional[_Union[Span, _Mapping]] = ...) -> None: ...

class CodecCost(_message.Message):
    __slots__ = ("codec", "encode_seconds_per_byte", "decode_seconds_per_byte", "ratio")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    ENCODE_SECONDS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    DECODE_SECONDS_PER_BYTE_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    codec: Codec
    encode_seconds_per_byte: float
    decode_seconds_per_byte: float
    ratio: float
    def __init__(self, codec: _Optional[_Union[Codec, str]] = ..., encode_seconds_per_byte: _Optional[float] = ..., decode_seconds_per_byte: _Optional[float] = ..., ratio: _Optional[float] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class LinkEstimate(_message.Message):
    __slots__ = ("source", "rtt_seconds", "up_bytes_per_second", "spread", "age_seconds")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    RTT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    UP_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    AGE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    source: TierName
    rtt_seconds: float
    up_bytes_per_second: float
    spread: float
    age_seconds: float
    def __init__(self, source: _Optional[_Union[TierName, str]] = ..., rtt_seconds: _Optional[float] = ..., up_bytes_per_second: _Optional[float] = ..., spread: _Optional[float] = ..., age_seconds: _Optional[float] = ...) -> None: ...

class InferReply(_message.Message):
    __slots__ = ("predictions", "trace", "profiles", "links")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    PROFILES_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    predictions: Predictions
    trace: _containers.RepeatedCompositeFieldContainer[HopTrace]
    profiles: _containers.RepeatedCompositeFieldContainer[TierProfile]
    links: _containers.RepeatedCompositeFieldContainer[LinkEstimate]
    def __init__(self, predictions: _Optional[_Union[Predictions, _Mapping]] = ..., trace: _Optional[_Iterable[_Union[HopTrace, _Mapping]]] = ..., profiles: _Optional[_Iterable[_Union[TierProfile, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[LinkEstimate, _Mapping]]] = ...) -> None: ...

class ExchangeRequest(_message.Message):
    __slots__ = ("calls", "cancelled")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[ExchangeCall]
    cancelled: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, calls: _Optional[_Iterable[_Union[ExchangeCall, _Mapping]]] = ..., cancelled: _Optional[_Iterable[int]] = ...) -> None: ...

class ExchangeCall(_message.Message):
    __slots__ = ("number", "request")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    number: int
    request: InferRequest
    def __init__(self, number: _Optional[int] = ..., request: _Optional[_Union[InferRequest, _Mapping]] = ...) -> None: ...

class ExchangeReply(_message.Message):
    __slots__ = ("outcomes", "leaving")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[ExchangeOutcome]
    leaving: bool
    def __init__(self, outcomes: _Optional[_Iterable[_Union[ExchangeOutcome, _Mapping]]] = ..., leaving: bool = ...) -> None: ...

class ExchangeOutcome(_message.Message):
    __slots__ = ("number", "reply", "status")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    number: int
    reply: InferReply
    status: bytes
    def __init__(self, number: _Optional[int] = ..., reply: _Optional[_Union[InferReply, _Mapping]] = ..., status: _Optional[bytes] = ...) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("model_hash",)
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    model_hash: str
    def __init__(self, model_hash: _Optional[str] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("tier", "model_name", "model_version", "model_hash", "split_points", "profile", "offramp_version", "above", "links")
    TIER_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    SPLIT_POINTS_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    OFFRAMP_VERSION_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    tier: TierName
    model_name: str
    model_version: str
    model_hash: str
    split_points: int
    profile: TierProfile
    offramp_version: str
    above: _containers.RepeatedCompositeFieldContainer[TierProfile]
    links: _containers.RepeatedCompositeFieldContainer[LinkEstimate]
    def __init__(self, tier: _Optional[_Union[TierName, str]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[str] = ..., model_hash: _Optional[str] = ..., split_points: _Optional[int] = ..., profile: _Optional[_Union[TierProfile, _Mapping]] = ..., offramp_version: _Optional[str] = ..., above: _Optional[_Iterable[_Union[TierProfile, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[LinkEstimate, _Mapping]]] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("padding", "reply_bytes")
    PADDING_FIELD_NUMBER: _ClassVar[int]
    REPLY_BYTES_FIELD_NUMBER: _ClassVar[int]
    padding: bytes
    reply_bytes: int
    def __init__(self, padding: _Optional[bytes] = ..., reply_bytes: _Optional[int] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("padding", "held_seconds")
    PADDING_FIELD_NUMBER: _ClassVar[int]
    HELD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    padding: bytes
    held_seconds: float
    def __init__(self, padding: _Optional[bytes] = ..., held_seconds: _Optional[float] = ...) -> None: ...

class PrepareRequest(_message.Message):
    __slots__ = ("model_hash", "plan", "remaining_seconds")
    MODEL_HASH_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    REMAINING_SECONDS_FIELD_NUMBER: _ClassVar[int]
    model_hash: str
    plan: Plan
    remaining_seconds: float
    def __init__(self, model_hash: _Optional[str] = ..., plan: _Optional[_Union[Plan, _Mapping]] = ..., remaining_seconds: _Optional[float] = ...) -> None: ...

class PrepareReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
