"""Messages and values, errors and statuses: there and back."""

from __future__ import annotations

import math
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, wrappers_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from services import codec, errors, framing, wire, wire_names
from services.domain import DegradedReason, LinkEstimate, Payload, Plan, Segment, SegmentTime, Stage, Tier, TierProfile
from services.errors import InternalError, InvalidInput, OfframpError, QueueFull, UpstreamUnavailable
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.response import HopTrace, Predictions, Response, Trace
from services.wire_beliefs import description_from_pb, profile_to_pb

DETAILS = "grpc-status-details-bin"


def family(kind: type[OfframpError]) -> list[type[OfframpError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in family(child))]


NEVER_CROSS = {errors.OfframpError, errors.CallerError, errors.BundleError, errors.SettingsError}
TREE = {kind for kind in family(OfframpError) if kind.__module__ == errors.__name__}
CROSS = sorted(TREE - NEVER_CROSS, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", CROSS)
def test_every_error_of_the_tree_arrives_as_itself(kind: type[OfframpError]) -> None:
    code, message, trailing = wire.status_of(kind("it said so"))
    back = wire.error_from(code, message, dict(trailing))
    assert type(back) is kind
    assert str(back) == "it said so"


@pytest.mark.parametrize("kind", CROSS)
def test_every_error_has_the_status_of_the_tree_drawn_above_it(kind: type[OfframpError]) -> None:
    drawn = {
        words[0]: words[-1]
        for line in (errors.__doc__ or "").splitlines()
        if (words := line.replace("│", " ").replace("├──", " ").replace("└──", " ").split())
    }
    unavailable = {"QueueFull", "Draining", "ModelNotReady", "UpstreamUnavailable"}
    expected = "UNAVAILABLE" if kind.__name__ in unavailable else drawn[kind.__name__]
    assert wire.status_of(kind(""))[0].name == expected


def test_reasons_tell_all_errors_apart() -> None:
    assert len({kind.reason for kind in CROSS}) == len(CROSS)


@pytest.mark.parametrize("kind", CROSS)
def test_without_details_the_status_alone_gives_an_error_of_the_same_kind(kind: type[OfframpError]) -> None:
    code, message, _ = wire.status_of(kind("x"))
    alike = {errors.CorruptPayload: InvalidInput, errors.NotCarried: InvalidInput, errors.NotHeld: errors.ModelMismatch}
    expected = UpstreamUnavailable if issubclass(kind, errors.Unavailable) else alike.get(kind, kind)
    assert type(wire.error_from(code, message, {})) is expected


def test_a_full_queue_says_when_to_come_back() -> None:
    assert dict(wire.status_of(QueueFull("full"))[2])["grpc-retry-pushback-ms"] == "50"
    told = [dict(wire.status_of(QueueFull("full", s))[2])["grpc-retry-pushback-ms"] for s in (0.0, 0.1, 9.0)]
    assert told == ["25", "100", "200"]
    assert told[-1] == f"{1000 * errors.MOST_RETRY_SECONDS:.0f}"
    assert "grpc-retry-pushback-ms" not in dict(wire.status_of(InvalidInput("bad"))[2])


def test_a_queue_that_will_never_have_room_says_not_to_come_back() -> None:
    code, message, trailing = wire.status_of(QueueFull("full", None))
    assert dict(trailing)["grpc-retry-pushback-ms"] == "-1"
    back = wire.error_from(code, message, dict(trailing))
    assert isinstance(back, QueueFull)
    assert back.retry_seconds is None


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_every_status_of_a_stranger_is_some_error(code: grpc.StatusCode) -> None:
    assert isinstance(wire.error_from(code, "x", {}), OfframpError)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.ABORTED, grpc.StatusCode.DATA_LOSS])
def test_a_strange_status_is_not_taken_for_unavailable(code: grpc.StatusCode) -> None:
    assert type(wire.error_from(code, "x", {})) is InternalError


def test_a_call_that_a_stopping_server_cancelled_found_it_unavailable() -> None:
    assert type(wire.error_from(grpc.StatusCode.CANCELLED, "CANCELLED", {})) is UpstreamUnavailable


@given(details=st.binary(max_size=200) | st.text(max_size=50))
def test_garbage_in_the_details_is_ignored(details: str | bytes) -> None:
    back = wire.error_from(grpc.StatusCode.UNAVAILABLE, "x", {DETAILS: details})
    assert type(back) is UpstreamUnavailable


@pytest.mark.parametrize(
    "detail",
    [
        error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="elsewhere"),
        error_details_pb2.ErrorInfo(reason="NO_SUCH_REASON", domain="offramp"),
        wrappers_pb2.StringValue(value="QUEUE_FULL"),
    ],
)
def test_details_of_somebody_else_are_ignored(detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    details = status_pb2.Status(code=14, details=[packed]).SerializeToString()
    assert type(wire.error_from(grpc.StatusCode.UNAVAILABLE, "x", {DETAILS: details})) is UpstreamUnavailable


def test_a_long_message_is_cut_so_that_it_fits_into_metadata() -> None:
    _, message, trailing = wire.status_of(InvalidInput("ü" * 100_000))
    assert len(message) == 500
    assert sum(len(value) for _, value in trailing) < 4096


def test_every_codec_and_tier_and_reason_has_its_number_in_the_protocol() -> None:
    assert {wire_names.CODEC_FROM_PB[number] for number in pb.Codec.values() if number} == set(codec.NAMES)
    assert [wire_names.tier_from_pb(wire_names.tier_to_pb(tier)) for tier in Tier] == list(Tier)
    names = {value: name.removeprefix("DEGRADED_REASON_") for name, value in pb.DegradedReason.items()}
    assert names == {reason.value: reason.name for reason in DegradedReason}


codecs = st.sampled_from(list(codec.CODECS))
tiers = st.sampled_from(list(Tier))
segments = st.builds(Segment, st.integers(0, 99), st.integers(0, 99))
seconds = st.floats(0, 1e6)
maybe = st.none() | seconds
stage = tiers.flatmap(lambda t: st.builds(Stage, st.just(t), segments, st.just("fp32") if t == Tier.DEVICE else codecs))
plans = st.builds(Plan, st.lists(stage, max_size=3).map(tuple), maybe)
hops = st.builds(
    HopTrace, tiers, seconds, seconds, seconds, seconds, seconds, st.integers(0, 2**60), st.integers(0, 2**60)
)
profiles = st.builds(
    TierProfile,
    tiers,
    seconds,
    st.lists(st.builds(SegmentTime, segments, st.integers(1, 999), seconds), max_size=3).map(tuple),
)
links = st.builds(LinkEstimate, tiers, maybe, maybe, maybe, maybe)


@st.composite
def responses(draw: st.DrawFn) -> Response:
    count, classes = draw(st.integers(0, 5)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    answers = Predictions(
        rng.random((count, classes), np.float32),
        rng.random(count, np.float32),
        rng.integers(0, 5, count, np.int32),
        rng.integers(0, 3, count, np.int32),
        rng.integers(0, 7, count, np.int32),
    )
    several = [tuple(draw(st.lists(one, max_size=3))) for one in (hops, profiles, links)]
    return Response(answers, Trace(several[0]), several[1], several[2])


@given(plan=plans)
def test_a_plan_arrives_as_it_left(plan: Plan) -> None:
    arrived = wire.plan_from_pb(pb.Plan.FromString(wire.plan_to_pb(plan).SerializeToString()))
    assert arrived == plan


@given(response=responses())
def test_a_response_arrives_as_it_left(response: Response) -> None:
    message = pb.InferReply.FromString(wire.response_to_pb(response).SerializeToString())
    arrived = wire.response_from_pb(message, *response.predictions.scores.shape)
    assert (arrived.trace, arrived.profiles, arrived.links) == (response.trace, response.profiles, response.links)
    for name in Predictions.__slots__:
        sent, got = getattr(response.predictions, name), getattr(arrived.predictions, name)
        assert got.dtype == sent.dtype
        assert np.array_equal(got, sent)


def test_an_unknown_of_a_link_stays_unknown_and_a_zero_a_zero() -> None:
    answers = Predictions.empty(0, 2)
    sent = Response(answers, Trace(), links=(LinkEstimate(Tier.EDGE), LinkEstimate(Tier.DEVICE, 0.0, 0.0, 0.0, 0.0)))
    assert wire.response_from_pb(wire.response_to_pb(sent), 0, 2).links == sent.links


def framed(plan: Plan, payload: Payload, request_id: str, thresholds: list[float], at: int) -> tuple[Framed, Any]:
    header = pb.InferRequest(
        request_id=request_id,
        model_hash="ab" * 32,
        plan=wire.plan_to_pb(plan),
        at=at,
        remaining_seconds=1.5,
        thresholds=thresholds,
    )
    whole = pb.InferRequest.FromString(header.SerializeToString())
    whole.activation.CopyFrom(wire.payload_to_pb(payload))
    whole.activation.payload = bytes(payload.data)
    return Framed(header, wire.payload_to_pb(payload), payload.data), whole


@given(
    plan=plans,
    name=codecs,
    shape=st.lists(st.integers(0, 4), min_size=2, max_size=4).map(tuple),
    request_id=st.text(max_size=20),
    thresholds=st.lists(st.floats(0, 2, width=32), max_size=4),
    at=st.integers(0, 99),
)
def test_a_framed_request_is_what_protobuf_would_have_sent(
    plan: Plan, name: str, shape: tuple[int, ...], request_id: str, thresholds: list[float], at: int
) -> None:
    payload = codec.get(name).encode(np.ones(shape, np.float32))
    frame, whole = framed(plan, payload, request_id, thresholds, at)
    arrived = pb.InferRequest.FromString(framing.serialize(frame))
    assert arrived == whole
    assert wire.payload_from_pb(arrived.activation, arrived.activation.payload) == payload
    assert wire.plan_from_pb(arrived.plan) == plan
    assert list(arrived.thresholds) == thresholds


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 2_100_000])
def test_framing_holds_for_payloads_of_any_length(size: int) -> None:
    payload = Payload((1, size), "int8", bytes(size))
    frame, whole = framed(Plan(()), payload, "r", [], 0)
    assert pb.InferRequest.FromString(framing.serialize(frame)) == whole


def test_a_plan_with_more_stages_than_tiers_is_refused() -> None:
    with pytest.raises(InvalidInput, match="4 stages"):
        wire.plan_from_pb(pb.Plan(stages=[pb.Stage(tier=1)] * 4))


@pytest.mark.parametrize("bad", [{"tier": 0}, {"tier": 9}, {"tier": 2, "codec": 99}])
def test_a_plan_with_an_unknown_tier_or_codec_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="unknown"):
        wire.plan_from_pb(pb.Plan(stages=[pb.Stage(**bad)]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
def test_a_plan_that_expects_what_is_no_time_is_refused(value: float) -> None:
    for _ in range(2):  # what is kept does not let it pass
        with pytest.raises(InvalidInput, match="expects"):
            wire.plan_from_pb(pb.Plan(expected_seconds=value))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"dtype": 0}, "FP32"),
        ({"dtype": 7}, "FP32"),
        ({"codec": 0}, "unknown codec 0"),
        ({"codec": 77}, "unknown codec 77"),
        ({"shape": [1] * 1000}, "1000 dimensions"),
    ],
)
def test_an_activation_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    fields = {"shape": [1, 2], "dtype": pb.DATA_TYPE_FP32, "codec": pb.CODEC_FP32} | change
    with pytest.raises(InvalidInput, match=complaint):
        wire.payload_from_pb(pb.Activation(**fields), b"")


def reply(**changes: Any) -> pb.InferReply:
    answers = Predictions.empty(2, 3)
    answers.exits[:] = 1
    message = wire.response_to_pb(Response(answers, Trace((HopTrace(Tier.EDGE),)), (TierProfile(Tier.EDGE),)))
    for name, value in changes.items():
        if isinstance(value, list):
            del getattr(message.predictions, name)[:]
            getattr(message.predictions, name).extend(value)
        else:
            setattr(message.predictions, name, value)
    return message


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 4},
        {"classes": 0},
        {"exits": [1]},
        {"exits": [1, 1, 1]},
        {"tiers": [1]},
        {"tiers": [0, 1]},
        {"tiers": [1, 9]},
        {"reasons": [0]},
        {"reasons": [0, 99]},
        {"scores": bytes(23)},
        {"scores": bytes(28)},
        {"scores": b""},
        {"scores": np.array([0, 0, 0, 0, 0, math.nan], "<f4").tobytes()},
        {"scores": np.array([0, 0, 0, 0, 0, math.inf], "<f4").tobytes()},
        {"confidences": bytes(4)},
        {"confidences": bytes(9)},
        {"confidences": np.array([0, math.nan], "<f4").tobytes()},
    ],
    ids=str,
)
def test_an_answer_that_cannot_be_one_is_the_far_sides_error(changes: dict[str, Any]) -> None:
    wire.response_from_pb(reply(), 2, 3)
    with pytest.raises(InternalError, match="makes no sense"):
        wire.response_from_pb(reply(**changes), 2, 3)


@pytest.mark.parametrize("stage", ["queue", "decode", "compute", "encode", "network"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-6])
def test_a_trace_that_is_no_time_is_the_far_sides_error(value: float, stage: str) -> None:
    message = reply()
    setattr(message.trace[0], f"{stage}_seconds", value)
    with pytest.raises(InternalError, match="makes no sense"):
        wire.response_from_pb(message, 2, 3)


def test_an_empty_answer_is_the_far_sides_error() -> None:
    with pytest.raises(InternalError):
        wire.response_from_pb(pb.InferReply(), 2, 3)


@pytest.mark.parametrize("field", ["rtt_seconds", "up_bytes_per_second", "spread", "age_seconds"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_link_that_cannot_be_is_the_far_sides_error(field: str, value: float) -> None:
    message = pb.DescribeReply(profile=profile_to_pb(TierProfile(Tier.EDGE)))
    message.links.add(source=pb.TIER_NAME_EDGE, **{field: value})
    with pytest.raises(InternalError, match="makes no sense"):
        description_from_pb(message)
