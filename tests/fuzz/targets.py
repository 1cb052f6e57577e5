"""What reads bytes of strangers, each as a function of bytes: it returns, or raises what it may; all else is a finding.

`SEEDS` are good inputs for each, to start from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from services import bundle, codec, exchange_frames, framing, model, screening, wire
from services.bundle import Bundle, InputSpec
from services.domain import Payload
from services.errors import BundleError, CorruptPayload, InternalError, InvalidInput, TooLarge
from services.framing import Framed
from services.open_inference import messages
from services.open_inference.tensors import read_input
from services.pb.offramp.v1 import tier_pb2 as pb
from tests import mutation
from tests.calls import asking
from tests.networks import three_exit_graph, write_bundle

Target = Callable[[bytes], object]

SPEC = InputSpec(name="input", shape=(1, 8, 8), preprocessing=mutation.PIXELS)
_MOST_ELEMENTS = 1 << 16
"""Of a tensor: what a model of that shape would let through."""
_UNKNOWN = b"\xfa\x7f\x80\x80\x02" + bytes(1 << 15)
"""A field that nobody knows, which makes a message large enough to be worth framing."""


def request(data: bytes) -> object:
    """An InferRequest as a tier reads it, whatever its checksum says."""
    try:
        framed = screening.parse(Framed, data, small=0)
        wire.plan_from_pb(framed.header.plan)
        return _decoded(wire.payload_from_pb(framed.activation, framed.payload), framed.header.at)
    except (InvalidInput, TooLarge):
        return None


def _decoded(payload: Payload, at: int) -> object:
    if not all(0 < size <= _MOST_ELEMENTS for size in payload.shape) or np.prod(payload.shape) > _MOST_ELEMENTS:
        return None
    signed = replace(payload, crc32c=codec.checksum(payload.parameters, payload.data))
    tensor = codec.at(payload.codec, at, mutation.PIXELS).decode(signed)
    assert tensor.shape == payload.shape
    assert np.isfinite(tensor).all()
    return tensor


def payload(data: bytes) -> object:
    """Nothing but a codec's bytes: its number, how many of them are parameters, those, and the rest."""
    if len(data) < 2:
        return None
    by = codec.NAMES[data[0] % len(codec.NAMES)]
    parameters, rest = data[2 : 2 + data[1]], data[2 + data[1] :]
    try:
        return _decoded(replace(mutation.payload(by), data=rest, parameters=parameters), 0 if by in codec.IMAGE else 1)
    except CorruptPayload:
        return None


def question(data: bytes) -> object:
    """A ModelInferRequest."""
    try:
        samples = read_input(screening.parse(messages.ModelInferRequest, data, small=0), SPEC, 16)
    except (InvalidInput, TooLarge):
        return None
    assert np.isfinite(samples).all()
    return samples


def reply(data: bytes) -> object:
    """What a tier above may answer."""
    message = screening.reply(pb.InferReply)(data)
    try:
        return message and wire.response_from_pb(message, 2, 4)
    except InternalError:
        return None


def frame(data: bytes) -> object:
    """Framing finds what protobuf finds, and writes what it read."""
    for each in (data, _UNKNOWN + data):
        whole, found = (_parsed(kind, each) for kind in (pb.InferRequest, Framed))
        if whole is None or found is None:
            assert whole is found
            continue
        assert bytes(found.payload) == whole.activation.payload
        assert list(found.activation.shape) == list(whole.activation.shape)
        again = pb.InferRequest.FromString(framing.serialize(replace(found, header=pb.InferRequest(request_id="r"))))
        assert again.activation.payload == whole.activation.payload
        assert found.request_id == whole.request_id
    return found


def _parsed(kind: Any, data: bytes) -> Any:
    try:
        return screening.parse(kind, data, small=0)
    except (InvalidInput, TooLarge):
        return None


def exchange(data: bytes) -> object:
    """A message of many requests."""
    try:
        return exchange_frames.read_request(data)
    except (InvalidInput, TooLarge):
        return None


def manifest(data: bytes) -> object:
    """A manifest.json."""
    (_scratch() / bundle.MANIFEST).write_bytes(data)
    try:
        return bundle.read_manifest(_scratch())
    except BundleError:
        return None


def graph(data: bytes) -> object:
    """A graph whose hash fits."""
    try:
        good = _tiny()
        return model.Model(replace(good, graph=data))
    except BundleError:
        return None


@cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


@cache
def _tiny() -> Bundle:
    return bundle.load(write_bundle(_scratch() / "tiny"))


def _parts(by: str) -> bytes:
    found = mutation.payload(by)
    return bytes([codec.NAMES.index(by), len(found.parameters)]) + found.parameters + bytes(found.data)


def _questions() -> list[bytes]:
    ramp, shades = np.linspace(-1, 1, 64, dtype=np.float32), np.arange(64, dtype=np.uint8)
    both = ramp.reshape(1, 1, 8, 8), shades.reshape(1, 8, 8, 1)
    return [asking(samples, raw=raw).SerializeToString() for samples in both for raw in (True, False)]


def _manifests() -> list[bytes]:
    _tiny()
    return [(_scratch() / "tiny" / bundle.MANIFEST).read_bytes()]


TARGETS: dict[str, Target] = {
    each.__name__: each for each in (request, payload, question, reply, frame, exchange, manifest, graph)
}
SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "request": lambda: [mutation.request()],
    "payload": lambda: [_parts(by) for by in codec.NAMES],
    "question": _questions,
    "reply": lambda: [mutation.reply()],
    "frame": lambda: [mutation.request()],
    "exchange": lambda: [exchange_frames.request([(1, Framed.FromString(mutation.request()))], (7, 8))],
    "manifest": _manifests,
    "graph": lambda: [three_exit_graph().SerializeToString()],
}
