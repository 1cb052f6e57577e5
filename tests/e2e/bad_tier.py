"""What lower tiers get wrong at an edge that serves the tiny network, 16 samples at a time."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import zstandard
from PIL import Image

from services import codec, wire
from services.bundle import Preprocessing
from services.domain import Plan, Segment, Stage, Tier
from services.pb.offramp.v1 import tier_pb2 as pb
from services.wire_names import CODEC_TO_PB
from tests.e2e.bad_input import BIG, CORRUPT, CUT_OFF, LATE, LIMIT, OTHER_MODEL, Wrong, field, padded
from tests.networks import graph_hash

PIXELS = Preprocessing(mean=(0.5,), std=(0.25,))
PLAN = Plan(
    (
        Stage(Tier.DEVICE, Segment(0, 2)),
        Stage(Tier.EDGE, Segment(2, 8), "int8"),
        Stage(Tier.CLOUD, Segment(8, 8), "fp32"),
    )
)
WHOLE = Plan((Stage(Tier.EDGE, Segment(0, 8), "png"),))
_MILLIONS = LIMIT - (1 << 20)
_ELEMENTS = 2 * 4 * 8 * 8
_BOMB = 256 << 20


def good(by: str = "int8") -> pb.InferRequest:
    """Two samples at split point 2, or images of them at split point 0."""
    images = by in codec.IMAGE
    rng = np.random.default_rng(0)
    tensor = rng.random((2, 1, 8, 8) if images else (2, 4, 8, 8), np.float32)
    payload = codec.get(by, PIXELS).encode(tensor)
    activation = wire.payload_to_pb(payload)
    activation.payload = bytes(payload.data)
    return pb.InferRequest(
        request_id="r1",
        model_hash=graph_hash(),
        plan=wire.plan_to_pb(WHOLE if images else PLAN),
        at=0 if images else 2,
        activation=activation,
    )


def but(change: Callable[[Any], object], by: str = "int8") -> Callable[[], bytes]:
    def build() -> bytes:
        message = good(by)
        change(message)
        return message.SerializeToString()

    return build


def signed(change: Callable[[Any], object], by: str = "int8") -> Callable[[], bytes]:
    """`change` to the activation, with a checksum that fits it."""

    def changed(message: Any) -> None:
        change(message.activation)
        message.activation.crc32c = codec.checksum(message.activation.parameters, message.activation.payload)

    return but(changed, by)


def of(name: str, value: Any) -> Callable[[], bytes]:
    return but(lambda message: setattr(message, name, value))


def shaped(*shape: int) -> Callable[[], bytes]:
    def change(message: Any) -> None:
        del message.activation.shape[:]
        message.activation.shape.extend(shape)

    return but(change)


def planned(*stages: tuple[int, int, int, int]) -> Callable[[], bytes]:
    def change(message: Any) -> None:
        del message.plan.stages[:]
        for tier, start, end, by in stages:
            message.plan.stages.add(tier=tier, start=start, end=end, codec=by)

    return but(change)


def carrying(payload: Callable[[], bytes], by: str) -> Callable[[], bytes]:
    return signed(lambda activation: setattr(activation, "payload", payload()), by)


def ranges(change: Callable[[np.ndarray], object], by: str = "int8") -> Callable[[], bytes]:
    """The parameters as float32, changed."""

    def changed(activation: Any) -> None:
        values = np.frombuffer(activation.parameters, "<f4").copy()
        change(values)
        activation.parameters = values.tobytes()

    return signed(changed, by)


@cache
def zeros(size: int = _BOMB, announced: bool = True) -> bytes:
    """A zstd frame of that many zeros, a few kilobytes long."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, write_content_size=announced)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(size))


def lying(frame: Callable[[], bytes], size: int) -> Callable[[], bytes]:
    """A frame that announces `size` bytes, whatever it holds."""
    header = zstandard.FRAME_HEADER + b"\xa0" + struct.pack("<I", size)  # one segment, its size in four bytes
    return lambda: header + frame()[zstandard.frame_header_size(frame()) :]


def image(kind: str, width: int, height: int, **options: Any) -> bytes:
    with BytesIO() as file:
        Image.new("L", (width, height)).save(file, kind, **options)
        return file.getvalue()


def images(first: Callable[[], bytes], by: str = "png") -> Callable[[], bytes]:
    """`first` in the place of the first of two images."""

    def change(activation: Any) -> None:
        lengths = np.frombuffer(activation.parameters, "<u4")
        second = activation.payload[lengths[0] :]
        file = first()
        activation.parameters = np.array([len(file), len(second)], "<u4").tobytes()
        activation.payload = file + second

    return signed(change, by)


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(*chunks: bytes) -> bytes:
    """A good PNG, with these chunks behind its header."""
    file = image("PNG", 8, 8)
    return file[:33] + b"".join(chunks) + file[33:]


def png_said_to_be(width: int, height: int) -> bytes:
    file = image("PNG", 8, 8)
    return file[:8] + png_chunk(b"IHDR", struct.pack(">II", width, height) + file[24:29]) + file[33:]


WRONG: tuple[Wrong, ...] = (
    Wrong("another model", of("model_hash", "f" * 64), OTHER_MODEL),
    Wrong("no model", of("model_hash", ""), OTHER_MODEL),
    Wrong("a hash that goes on behind a NUL", of("model_hash", graph_hash() + "\0"), OTHER_MODEL),
    Wrong("a hash of a megabyte", of("model_hash", "é" * (1 << 19)), OTHER_MODEL),
    Wrong("an empty message", lambda: b"", OTHER_MODEL),
    Wrong("an id of 201 characters", of("request_id", "x" * 201)),
    Wrong("time left that is negative", of("remaining_seconds", -5.0)),
    Wrong("time left that is infinitely negative", of("remaining_seconds", -np.inf)),
    Wrong("time left that is no number", of("remaining_seconds", np.nan)),
    Wrong("time left that is over on arrival", of("remaining_seconds", 1e-9), LATE),
    Wrong("a threshold for some exits only", but(lambda m: m.thresholds.append(0.5))),
    Wrong("more thresholds than exits", but(lambda m: m.thresholds.extend([0.5] * 100_000))),
    Wrong("a negative threshold", but(lambda m: m.thresholds.extend([0.5, -1.0, 0.5]))),
    Wrong("a threshold that is no number", but(lambda m: m.thresholds.extend([0.5, np.nan, 0.5]))),
    Wrong("no plan", but(lambda m: m.ClearField("plan"))),
    Wrong("a plan of another network, longer", planned((1, 0, 2, 0), (2, 2, 9, 5))),
    Wrong("a plan of another network, shorter", planned((1, 0, 2, 0), (2, 2, 7, 5))),
    Wrong("a plan with a gap", planned((1, 0, 2, 0), (2, 2, 4, 5), (3, 5, 8, 5))),
    Wrong("a plan whose segments overlap", planned((1, 0, 3, 0), (2, 2, 8, 5))),
    Wrong("a plan whose segment runs backwards", planned((1, 0, 4, 0), (2, 4, 2, 5), (3, 2, 8, 5))),
    Wrong("a plan that visits a tier twice", planned((2, 0, 2, 5), (2, 2, 4, 5), (2, 4, 8, 5))),
    Wrong("a plan that comes back down", planned((2, 0, 2, 5), (1, 2, 4, 5), (3, 4, 8, 5))),
    Wrong("a plan of more stages than tiers", planned((1, 0, 2, 0), (2, 2, 4, 5), (3, 4, 5, 5), (3, 5, 8, 5))),
    Wrong("a plan that passes the edge by", planned((1, 0, 2, 0), (3, 2, 8, 5))),
    Wrong("a plan for a tier that there is not", planned((1, 0, 2, 0), (9, 2, 8, 5))),
    Wrong("a plan whose codec nobody knows", planned((1, 0, 2, 0), (2, 2, 8, 99))),
    Wrong("a plan without a codec", planned((1, 0, 2, 0), (2, 2, 8, 0))),
    Wrong("a plan beyond all numbers", planned((1, 0, 2, 0), (2, 2, 2**32 - 1, 5))),
    Wrong("a split point that the plan gives to another", of("at", 4)),
    Wrong("a split point that there is not", of("at", 4_000_000_000)),
    Wrong("the output as what goes in", of("at", 8)),
    Wrong("no activation", but(lambda m: m.ClearField("activation"))),
    Wrong("an activation of unknown type", but(lambda m: setattr(m.activation, "dtype", 0))),
    Wrong("an activation of a type of tomorrow", but(lambda m: setattr(m.activation, "dtype", 2))),
    Wrong("an activation without a codec", but(lambda m: setattr(m.activation, "codec", 0))),
    Wrong("an activation in a codec of tomorrow", but(lambda m: setattr(m.activation, "codec", 99))),
    Wrong("an activation in a codec of minus one", but(lambda m: setattr(m.activation, "codec", -1))),
    Wrong("images behind the first split point", but(lambda m: setattr(m.activation, "codec", CODEC_TO_PB["png"]))),
    Wrong("no shape", shaped()),
    Wrong("a shape of another split point", shaped(2, 6, 4, 4)),
    Wrong("a shape with negative dimensions", shaped(2, -4, -8, 8)),
    Wrong("a shape whose product overflows to what is there", shaped(2, 2**62 + 4, 8, 8)),
    Wrong("a shape of ten thousand dimensions", shaped(*[1] * 10_000)),
    Wrong("a batch of minus two", shaped(-2, 4, 8, 8)),
    Wrong("an empty batch", shaped(0, 4, 8, 8)),
    Wrong("a batch over the limit", shaped(17, 4, 8, 8), BIG),
    Wrong("a batch of nearly all there can be", shaped(2**63 - 1, 4, 8, 8), BIG),
    Wrong("a batch larger than what is there", shaped(3, 4, 8, 8), CORRUPT),
    Wrong("a wrong checksum", but(lambda m: setattr(m.activation, "crc32c", 1)), CORRUPT),
    Wrong("a payload of another codec", but(lambda m: setattr(m.activation, "codec", pb.CODEC_FP32)), CORRUPT),
    Wrong("a payload a byte short", signed(lambda a: setattr(a, "payload", a.payload[:-1])), CORRUPT),
    Wrong("a payload a byte long", signed(lambda a: setattr(a, "payload", a.payload + b"\0")), CORRUPT),
    Wrong("no payload", signed(lambda a: setattr(a, "payload", b"")), CORRUPT),
    Wrong("parameters a byte short", signed(lambda a: setattr(a, "parameters", a.parameters[:-1])), CORRUPT),
    Wrong("a scale that is no number", ranges(lambda r: r.__setitem__(-1, np.nan)), CORRUPT),
    Wrong("a scale that is infinite", ranges(lambda r: r.__setitem__(-1, np.inf)), CORRUPT),
    Wrong("a scale that is negative", ranges(lambda r: r.__setitem__(-1, -1.0)), CORRUPT),
    Wrong("a scale of zero", ranges(lambda r: r.__setitem__(slice(8, None), 0.0)), CORRUPT),
    Wrong("a unit of zero", ranges(lambda r: r.__setitem__(slice(None, 2), 0.0), "int4"), CORRUPT),
    Wrong("a lowest value that is no number", ranges(lambda r: r.__setitem__(0, np.nan)), CORRUPT),
    Wrong("scales that overflow", ranges(lambda r: r.__setitem__(slice(8, None), 3e38)), CORRUPT),
    Wrong("a unit that is no number", ranges(lambda r: r.__setitem__(0, np.nan), "int4"), CORRUPT),
    Wrong("numbers that are none", carrying(lambda: np.full(_ELEMENTS, np.nan, "<f4").tobytes(), "fp32"), CORRUPT),
    Wrong("an infinite half", carrying(lambda: np.full(_ELEMENTS, np.inf, "<f2").tobytes(), "fp16"), CORRUPT),
    Wrong("a frame that is no zstd", carrying(lambda: bytes(100), "int8+zstd"), CORRUPT),
    Wrong("a zstd frame cut short", carrying(lambda: zeros(_ELEMENTS * 4)[:-4], "fp32+zstd"), CORRUPT),
    Wrong("two zstd frames", carrying(lambda: zeros(_ELEMENTS * 4) * 2, "fp32+zstd"), CORRUPT),
    Wrong("a zstd frame that announces nothing", carrying(lambda: zeros(_ELEMENTS * 4, False), "fp32+zstd"), CORRUPT),
    Wrong("a zstd bomb that says what it is", carrying(zeros, "fp32+zstd"), CORRUPT),
    Wrong("a zstd bomb that says nothing", carrying(lambda: zeros(_BOMB, False), "fp32+zstd"), CORRUPT),
    Wrong("a zstd bomb that lies", carrying(lying(zeros, _ELEMENTS * 4), "fp32+zstd"), CORRUPT),
    Wrong("a bitmap that ends early", carrying(lambda: b"\0", "int8+bitmap"), CORRUPT),
    Wrong("a bitmap that announces what is not there", carrying(lambda: b"\xff" * 40, "int8+bitmap"), CORRUPT),
    Wrong("an image of another size", images(lambda: image("PNG", 9, 8)), CORRUPT),
    Wrong("an image of another kind", images(lambda: image("JPEG", 8, 8)), CORRUPT),
    Wrong("an image said to be of a gigapixel", images(lambda: png_said_to_be(50_000, 20_000)), CORRUPT),
    Wrong("an image with a text that swells", images(lambda: png_with(text_bomb())), CORRUPT),
    Wrong("an image with many texts that swell", images(lambda: png_with(*map(text_bomb, [1 << 20] * 60))), CORRUPT),
    Wrong("an image with something behind it", images(lambda: image("PNG", 8, 8) + b"PK\3\4"), CORRUPT),
    Wrong("an image whose header lies to the decoder", images(lambda: png_said_to_be(8, 8)[:40]), CORRUPT),
    Wrong("a picture that moves", images(lambda: moving(), "webp80"), CORRUPT),
    Wrong("lengths of images that overflow", signed(lambda a: setattr(a, "parameters", b"\xff" * 8), "png"), CORRUPT),
    Wrong("bytes that are no message", lambda: b"\xff" * 64),
    Wrong("a message cut short", lambda: good().SerializeToString()[:-5]),
    Wrong("an id that is no text", lambda: field(1, b"\xff\xfe")),
    Wrong("millions of stages", lambda: field(3, field(1, b"") * (_MILLIONS // 2)), BIG),
    Wrong("millions of plans", lambda: field(3, b"") * (_MILLIONS // 2), BIG),
    Wrong("millions of activations", lambda: field(15, b"") * (_MILLIONS // 2), BIG),
    Wrong("millions of dimensions", lambda: field(15, field(1, b"\1" * _MILLIONS)), BIG),
    Wrong("millions of dimensions one by one", lambda: field(15, b"\x08\1" * (_MILLIONS // 2)), BIG),
    Wrong("millions of thresholds one by one", lambda: b"\x35\0\0\0\0" * (_MILLIONS // 5), BIG),
    Wrong("millions of fields that nobody knows", lambda: b"\xf8\x7f\x01" * (_MILLIONS // 3), BIG),
    Wrong("a message over the limit", padded(LIMIT + 1), CUT_OFF),
    Wrong("zeros that gzip made small", padded(32 * LIMIT), CUT_OFF, gzip=True),
    Wrong("metadata of 16 KB", but(lambda m: None), CUT_OFF, metadata=(("x-long", "x" * 16_384),)),
    Wrong("metadata of 32 KB", but(lambda m: None), CUT_OFF, metadata=(("x-long", "x" * 32_000),)),
)


def text_bomb(size: int = 64 << 20) -> bytes:
    return png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(size), 9))


def moving() -> bytes:
    with BytesIO() as file:
        frames = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
        frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
        return file.getvalue()


def in_two_halves() -> bytes:
    """The activation twice: a later one adds to an earlier one, as protobuf has it."""
    message, first = good(), pb.Activation()
    first.shape.extend(message.activation.shape)
    del message.activation.shape[:]
    second = message.activation.SerializeToString()
    message.ClearField("activation")
    return message.SerializeToString() + field(15, first.SerializeToString()) + field(15, second)


ODD: tuple[Wrong, ...] = (
    Wrong("a deadline in a million years", of("remaining_seconds", 1e300)),
    Wrong("a deadline that is infinite", of("remaining_seconds", np.inf)),
    Wrong("an id with a NUL", of("request_id", "a\0b")),
    Wrong("a field that nobody knows", lambda: good().SerializeToString() + field(2047, bytes(100_000))),
    Wrong("an activation in two halves", in_two_halves),
)
"""Not what one expects, and still to be answered as ever."""
