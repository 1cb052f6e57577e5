"""What clients get wrong at the public door of a device agent that serves the tiny network, 16 samples at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from services.open_inference import messages
from services.open_inference.replies import OUTPUTS
from tests.calls import asking
from tests.e2e.bad_input import BIG, CUT_OFF, LIMIT, MISSING, Wrong, field, padded, serialised

ONE = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
PIXELS = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
NAMED = field(1, b"tiny")
_MILLIONS = LIMIT - (1 << 20)


def but(change: Callable[[Any], object], samples: np.ndarray = ONE, raw: bool = True) -> Callable[[], bytes]:
    def build() -> Any:
        request = asking(samples, raw=raw)
        change(request)
        return request

    return serialised(build)


def of(samples: np.ndarray = ONE, name: str = "", raw: bool = True, **fields: Any) -> Callable[[], bytes]:
    return serialised(lambda: asking(samples, name, raw, **fields))


def shaped(*shape: int) -> Callable[[], bytes]:
    def change(request: Any) -> None:
        del request.inputs[0].shape[:]
        request.inputs[0].shape.extend(shape)

    return but(change)


def holding(value: float, raw: bool = True) -> Callable[[], bytes]:
    samples = ONE.copy()
    samples[0, 0, 3, 3] = value
    return of(samples, raw=raw)


def typed(name: str, *values: Any, raw: bool = True) -> Callable[[], bytes]:
    """Values in typed contents of another type, with the raw contents or without."""

    def change(request: Any) -> None:
        if not raw:
            request.ClearField("raw_input_contents")
        getattr(request.inputs[0].contents, name).extend(values)

    return but(change)


def raw_of(change: Callable[[bytes], bytes]) -> Callable[[], bytes]:
    return but(lambda r: r.raw_input_contents.__setitem__(0, change(r.raw_input_contents[0])))


def threshold(kind: str, value: Any) -> Callable[[], bytes]:
    return but(lambda r: setattr(r.parameters["exit_threshold"], kind, value))


def numbers(field_number: int, byte: bytes) -> Callable[[], bytes]:
    """Millions of numbers of a byte each, packed, where typed contents are."""
    return lambda: NAMED + field(5, field(5, field(field_number, byte * _MILLIONS)))


def one_by_one() -> bytes:
    """The good request in typed contents, each number a field, as a writer that does not pack makes it."""
    request = asking(ONE, raw=False)
    request.inputs[0].ClearField("contents")
    tensor = request.inputs[0].SerializeToString()
    values = b"".join(b"\x35" + number.tobytes() for number in ONE.ravel())
    return NAMED + field(5, tensor + field(5, values))


WRONG: tuple[Wrong, ...] = (
    Wrong("a model that nobody serves", of(model_name="other"), MISSING),
    Wrong("no model at all", of(model_name=""), MISSING),
    Wrong("a model whose name goes on behind a NUL", of(model_name="tiny\0"), MISSING),
    Wrong("a model named by a path", of(model_name="../tiny"), MISSING),
    Wrong("a model whose name is a megabyte long", of(model_name="x" * (1 << 20)), MISSING),
    Wrong("a version that is not there", of(model_version="2"), MISSING),
    Wrong("a version that is no number", of(model_version="latest\0"), MISSING),
    Wrong("an empty message", lambda: b"", MISSING),
    Wrong("no input", serialised(lambda: messages.ModelInferRequest(model_name="tiny"))),
    Wrong("two inputs", but(lambda r: r.inputs.add(name="input"))),
    Wrong("a thousand inputs", but(lambda r: [r.inputs.add() for _ in range(1000)])),
    Wrong("an input that nobody knows", of(name="other")),
    Wrong("an input whose name goes on behind a NUL", of(name="input\0")),
    Wrong("an input whose name is long", of(name="ä" * 50_000)),
    Wrong("doubles where floats are wanted", but(lambda r: setattr(r.inputs[0], "datatype", "FP64"))),
    Wrong("texts where floats are wanted", but(lambda r: setattr(r.inputs[0], "datatype", "BYTES"))),
    Wrong("a type of numbers that there is not", but(lambda r: setattr(r.inputs[0], "datatype", "FP31\0"))),
    Wrong("no type of numbers", but(lambda r: r.inputs[0].ClearField("datatype"))),
    Wrong("pixels said to be numbers", of(PIXELS, "input")),
    Wrong("numbers said to be pixels", of(ONE, "image")),
    Wrong("no shape", shaped()),
    Wrong("a shape without the batch", shaped(1, 8, 8)),
    Wrong("a shape of another size", shaped(1, 1, 8, 9)),
    Wrong("a shape in another order", shaped(1, 8, 8, 1)),
    Wrong("a shape that is right but for its signs", shaped(1, 1, -8, -8)),
    Wrong("a shape of zeros", shaped(0, 0, 0, 0)),
    Wrong("a shape whose product overflows to what is there", shaped(1, 1, 2**62 + 8, 8)),
    Wrong("a shape of huge dimensions", shaped(1, 1, 2**62, 2**62)),
    Wrong("a shape of a thousand dimensions", shaped(*[1] * 1000)),
    Wrong("a batch of minus one", shaped(-1, 1, 8, 8)),
    Wrong("an empty batch", of(ONE[:0])),
    Wrong("a batch larger than what is there", shaped(2, 1, 8, 8)),
    Wrong("a batch over the limit", of(np.zeros((17, 1, 8, 8), np.float32)), BIG),
    Wrong("a batch of nearly all there can be", shaped(2**63 - 1, 1, 8, 8), BIG),
    Wrong("raw contents a byte short", raw_of(lambda data: data[:-1])),
    Wrong("raw contents a byte long", raw_of(lambda data: data + b"\0")),
    Wrong("raw contents that are empty", raw_of(lambda data: b"")),
    Wrong("raw contents of two inputs", but(lambda r: r.raw_input_contents.append(b""))),
    Wrong("both raw and typed contents", typed("fp32_contents", 1.0)),
    Wrong("raw contents and typed ones of another type", typed("bytes_contents", b"\0")),
    Wrong("no contents", but(lambda r: r.ClearField("raw_input_contents"))),
    Wrong("typed contents of another type", typed("int_contents", *range(64), raw=False)),
    Wrong("typed contents of texts", typed("bytes_contents", b"\0" * 256, raw=False)),
    Wrong("typed contents a number short", but(lambda r: r.inputs[0].contents.fp32_contents.pop(), raw=False)),
    Wrong("a pixel of 256", but(lambda r: r.inputs[0].contents.uint_contents.__setitem__(0, 256), PIXELS, False)),
    Wrong("a number that is none", holding(np.nan)),
    Wrong("a typed number that is none", holding(np.nan, raw=False)),
    Wrong("an infinite number", holding(np.inf)),
    Wrong("a number infinite the other way", holding(-np.inf)),
    Wrong("an output that there is not", but(lambda r: r.outputs.add(name="logits\0"))),
    Wrong("more outputs than there are", but(lambda r: [r.outputs.add(name="scores") for _ in range(3000)])),
    Wrong("an id of 201 characters", of(id="x" * 201)),
    Wrong("an id of a megabyte", of(id="x" * (1 << 20))),
    Wrong("a threshold below zero", threshold("double_param", -0.1)),
    Wrong("a threshold above two", threshold("int64_param", 3)),
    Wrong("a threshold that is no number", threshold("double_param", np.nan)),
    Wrong("a threshold in words", threshold("string_param", "high")),
    Wrong("a threshold with a NUL", threshold("string_param", "0.5\0")),
    Wrong("a threshold of ten thousand digits", threshold("string_param", "9" * 10_000)),
    Wrong("a threshold of yes", threshold("bool_param", True)),
    Wrong("bytes that are no message", lambda: b"\xff" * 64),
    Wrong("a message cut short", lambda: of()()[:-5]),
    Wrong("a length that goes beyond the end", lambda: b"\x3a\xff\xff\xff\xff\x07" + b"x"),
    Wrong("a name that is no text", lambda: field(1, b"\xff\xfe")),
    Wrong("millions of empty inputs", lambda: NAMED + field(5, b"") * (_MILLIONS // 2), BIG),
    Wrong("millions of empty outputs", lambda: NAMED + field(6, b"") * (_MILLIONS // 2), BIG),
    Wrong("millions of parameters without a name", lambda: NAMED + field(4, b"") * (_MILLIONS // 2), BIG),
    Wrong("millions of empty raw contents", lambda: NAMED + field(7, b"") * (_MILLIONS // 2), BIG),
    Wrong("millions of empty texts", lambda: NAMED + field(5, field(5, field(8, b"") * (_MILLIONS // 2))), BIG),
    Wrong("millions of fields that nobody knows", lambda: NAMED + b"\xf8\x7f\x01" * (_MILLIONS // 3), BIG),
    Wrong("millions of dimensions", lambda: NAMED + field(5, field(3, b"\1" * _MILLIONS)), BIG),
    Wrong("millions of typed whole numbers", numbers(3, b"\1"), BIG),
    Wrong("millions of typed truths", numbers(1, b"\1"), BIG),
    Wrong("millions of typed pixels", numbers(4, b"\1"), BIG),
    Wrong("millions of typed pixels one by one", lambda: NAMED + field(5, field(5, b"\x20\1" * (_MILLIONS // 2))), BIG),
    Wrong("millions of typed floats", lambda: NAMED + field(5, field(5, field(6, bytes(_MILLIONS // 4 * 4))))),
    Wrong("a message over the limit", padded(LIMIT + 1), CUT_OFF),
    Wrong("zeros that gzip made small", padded(32 * LIMIT), CUT_OFF, gzip=True),
    Wrong("zeros that gzip made small, within the limit", padded(LIMIT - 100), MISSING, gzip=True),
    Wrong("metadata of 16 KB", of(), CUT_OFF, metadata=(("x-long", "x" * 16_384),)),
    Wrong("metadata of 32 KB", of(), CUT_OFF, metadata=(("x-long", "x" * 32_000),)),
)

ODD: tuple[Wrong, ...] = (
    Wrong("an id with a NUL", of(id="a\0b")),
    Wrong("an id of other writing", of(id="é漢🙂" * 20)),
    Wrong("a parameter that nobody knows", but(lambda r: setattr(r.parameters["x\0"], "string_param", "\0"))),
    Wrong("a field that nobody knows", lambda: of()() + field(2047, bytes(1000))),
    Wrong("floats one by one instead of packed", lambda: one_by_one()),
    Wrong("every output, backwards", but(lambda r: [r.outputs.add(name=name) for name in reversed(OUTPUTS)])),
)
"""Not what one expects, and still to be answered as ever."""
