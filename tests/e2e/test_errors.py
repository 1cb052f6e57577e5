"""Everything a caller can get wrong at the public door: the exact status, and an unharmed server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from services import wire
from services.errors import OfframpError
from services.open_inference import messages
from tests.calls import DOOR, Call, arrays, asking, calling, reason
from tests.tiers import device

ONE = np.zeros((1, 1, 8, 8), np.float32)
PIXELS = np.zeros((1, 8, 8, 1), np.uint8)
BAD, MISSING, BIG = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
MEGABYTE = 1 << 20


@pytest.fixture
async def call(tiny: Path) -> AsyncIterator[Call]:
    """A device agent that takes 16 samples and a megabyte; asserts at the end that it still answers."""
    async with device(tiny, max_batch=16, max_message_bytes=MEGABYTE) as front, calling(front.address) as call:
        yield call
        reply = await call(f"{DOOR}/ModelInfer", asking(PIXELS))
        assert arrays(reply)["label"].shape == (1,)
        assert front.limiter.in_flight == 0


async def refused(call: Call, request: Any, method: str = "ModelInfer") -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(f"{DOOR}/{method}", request)
    return error.value


def but(change: Callable[[Any], object], samples: np.ndarray = ONE, raw: bool = True) -> Any:
    request = asking(samples, raw=raw)
    change(request)
    return request


def shaped(*shape: int) -> Any:
    def change(request: Any) -> None:
        del request.inputs[0].shape[:]
        request.inputs[0].shape.extend(shape)

    return but(change)


def parameter(name: str, kind: str, value: Any) -> Any:
    return but(lambda r: setattr(r.parameters[name], kind, value))


def too_bright(request: Any) -> None:
    request.inputs[0].contents.uint_contents[0] = 256


WRONG: list[tuple[str, Any, grpc.StatusCode, str]] = [
    ("model", asking(ONE, model_name="other"), MISSING, "MODEL_NOT_FOUND"),
    ("no model", asking(ONE, model_name=""), MISSING, "MODEL_NOT_FOUND"),
    ("version", asking(ONE, model_version="2"), MISSING, "MODEL_NOT_FOUND"),
    ("input name", asking(ONE, "other"), BAD, "INVALID_INPUT"),
    ("long input name", asking(ONE, "ä" * 50_000), BAD, "INVALID_INPUT"),
    ("no input", messages.ModelInferRequest(model_name="tiny"), BAD, "INVALID_INPUT"),
    ("two inputs", but(lambda r: r.inputs.add(name="input")), BAD, "INVALID_INPUT"),
    ("dtype", but(lambda r: setattr(r.inputs[0], "datatype", "FP64")), BAD, "INVALID_INPUT"),
    ("BYTES", but(lambda r: setattr(r.inputs[0], "datatype", "BYTES")), BAD, "INVALID_INPUT"),
    ("pixels as numbers", asking(PIXELS, "input"), BAD, "INVALID_INPUT"),
    ("numbers as pixels", asking(ONE, "image"), BAD, "INVALID_INPUT"),
    ("no shape", shaped(), BAD, "INVALID_INPUT"),
    ("shape", shaped(1, 1, 8, 9), BAD, "INVALID_INPUT"),
    ("transposed shape", shaped(1, 8, 8, 1), BAD, "INVALID_INPUT"),
    ("negative dimension", shaped(1, 1, -8, -8), BAD, "INVALID_INPUT"),
    ("huge dimension", shaped(1, 1, 2**62, 2**62), BAD, "INVALID_INPUT"),
    ("a thousand dimensions", shaped(*[1] * 1000), BAD, "INVALID_INPUT"),
    ("negative batch", shaped(-1, 1, 8, 8), BAD, "INVALID_INPUT"),
    ("empty batch", asking(ONE[:0]), BAD, "INVALID_INPUT"),
    ("batch over the limit", asking(np.zeros((17, 1, 8, 8), np.float32)), BIG, "TOO_LARGE"),
    ("huge batch", shaped(2**62, 1, 8, 8), BIG, "TOO_LARGE"),
    ("short raw", but(lambda r: r.raw_input_contents.__setitem__(0, b"\0" * 255)), BAD, "INVALID_INPUT"),
    ("long raw", but(lambda r: r.raw_input_contents.__setitem__(0, b"\0" * 257)), BAD, "INVALID_INPUT"),
    ("two raw", but(lambda r: r.raw_input_contents.append(b"")), BAD, "INVALID_INPUT"),
    ("raw and typed", but(lambda r: r.inputs[0].contents.fp32_contents.append(1)), BAD, "INVALID_INPUT"),
    ("no data", but(lambda r: r.ClearField("raw_input_contents")), BAD, "INVALID_INPUT"),
    ("short typed", but(lambda r: r.inputs[0].contents.fp32_contents.pop(), raw=False), BAD, "INVALID_INPUT"),
    ("pixel of 256", but(too_bright, PIXELS, raw=False), BAD, "INVALID_INPUT"),
    ("NaN", asking(np.full_like(ONE, np.nan)), BAD, "INVALID_INPUT"),
    ("typed NaN", asking(np.full_like(ONE, np.nan), raw=False), BAD, "INVALID_INPUT"),
    ("Inf", asking(np.full_like(ONE, np.inf)), BAD, "INVALID_INPUT"),
    ("output", but(lambda r: r.outputs.add(name="logits")), BAD, "INVALID_INPUT"),
    ("long id", asking(ONE, id="x" * 201), BAD, "INVALID_INPUT"),
    ("threshold below 0", parameter("exit_threshold", "double_param", -0.1), BAD, "INVALID_INPUT"),
    ("threshold above 2", parameter("exit_threshold", "int64_param", 3), BAD, "INVALID_INPUT"),
    ("threshold NaN", parameter("exit_threshold", "double_param", np.nan), BAD, "INVALID_INPUT"),
    ("threshold 'nan'", parameter("exit_threshold", "string_param", "nan"), BAD, "INVALID_INPUT"),
    ("threshold 'high'", parameter("exit_threshold", "string_param", "high"), BAD, "INVALID_INPUT"),
    ("threshold yes", parameter("exit_threshold", "bool_param", True), BAD, "INVALID_INPUT"),
    ("threshold unset", but(lambda r: r.parameters["exit_threshold"].Clear()), BAD, "INVALID_INPUT"),
    ("malformed", b"\xff\xff\xff\xff", BAD, "INVALID_INPUT"),
    ("truncated", asking(ONE).SerializeToString()[:-5], BAD, "INVALID_INPUT"),
    ("name that is no text", b"\x0a\x02\xff\xfe", BAD, "INVALID_INPUT"),
    ("empty message", b"", MISSING, "MODEL_NOT_FOUND"),
    ("oversized message", asking(np.zeros((1, MEGABYTE // 4), np.float32)), BIG, ""),
]


@pytest.mark.parametrize(("request_", "code", "why"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
async def test_a_wrong_request_gets_its_status_and_reason(
    call: Call, request_: Any, code: grpc.StatusCode, why: str
) -> None:
    error = await refused(call, request_)
    assert (error.code(), reason(error)) == (code, why)
    assert error.details()
    assert "Traceback" not in error.details()


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata"])
@pytest.mark.parametrize(("name", "version"), [("other", ""), ("tiny", "2"), ("tiny", "01")])
async def test_another_model_or_version_is_not_found(call: Call, method: str, name: str, version: str) -> None:
    request = getattr(messages, f"{method}Request")(name=name, version=version)
    error = await refused(call, request, method)
    assert (error.code(), reason(error)) == (MISSING, "MODEL_NOT_FOUND")


@pytest.mark.parametrize(
    "method",
    ["RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus", "TraceSetting", "LogSettings"],
)
async def test_a_method_that_is_not_offered_is_unimplemented(call: Call, method: str) -> None:
    error = await refused(call, b"", method)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_full_queue_is_unavailable_with_a_pushback(tiny: Path) -> None:
    async with device(tiny, max_in_flight=1) as front, calling(front.address) as call:
        with front.limiter.admit():
            error = await refused(call, asking(ONE))
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
        assert dict(error.trailing_metadata() or ())["grpc-retry-pushback-ms"] == "50"
        await call(f"{DOOR}/ModelInfer", asking(ONE))


async def test_a_draining_agent_is_unavailable(tiny: Path) -> None:
    async with device(tiny) as front, calling(front.address) as call:
        front.limiter.draining = True
        error = await refused(call, asking(ONE))
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


class Broken:
    """An input that breaks whoever touches it."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError("secret: /etc/passwd")


@pytest.mark.parametrize("name", ["my-id", ""])
async def test_the_unexpected_is_masked_and_carries_only_an_id(tiny: Path, name: str) -> None:
    async with device(tiny) as front, calling(front.address) as call:
        model, front.runtime.model = front.runtime.model, Broken()  # type: ignore[assignment]
        error = await refused(call, asking(ONE, id=name))
        front.runtime.model = model
        await call(f"{DOOR}/ModelInfer", asking(ONE))
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    prefix, _, told = (error.details() or "").partition("=")
    assert prefix == "internal error, id"
    assert told == name if name else len(told) == 32
    assert front.limiter.in_flight == 0


def test_an_error_of_ours_without_a_status_is_internal() -> None:
    assert wire.status_of(OfframpError("x"))[0] is grpc.StatusCode.INTERNAL
