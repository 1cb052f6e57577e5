"""`offramp infer`: files to a running device agent, and its answers as a person reads them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Group
from rich.table import Table

from device_agent.client import AsyncClient, ModelInfo, Prediction
from services.errors import DeadlineExceeded, InvalidInput, NotImplementedHere, Unavailable

_IMAGES = (".png", ".jpg", ".jpeg")
_STAGES = ("queue", "decode", "compute", "encode", "network")
_COLOURS = {"queue": "red", "decode": "cyan", "compute": "green", "encode": "blue", "network": "yellow"}
_WIDTH = 36
_MAX_PIXELS = 50_000_000
_MAX_ARRAY_BYTES = 64 << 20
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    OverflowError,
    MemoryError,
    TokenError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What decoders raise for files that are not what they say."""

Asked = tuple[Path, list[Prediction]]


async def ask(target: str, model: str, files: list[Path], timeout_seconds: float) -> list[Asked]:
    """One request per file. Raises InvalidInput for a file that cannot be read or does not fit the model."""
    for file in files:
        if not file.is_file():
            raise InvalidInput(f"{file}: {'a directory, give files' if file.is_dir() else 'no such file'}")
    found: list[Asked] = []
    async with AsyncClient(target, timeout_seconds) as client:
        try:
            info = await client.model(model)
        except NotImplementedHere:
            raise InvalidInput(
                f"{target} is not a device agent; give --target the address of its public door"
            ) from None
        except Unavailable:
            raise Unavailable(f"no device agent answers at {target}; 'offramp up' starts one") from None
        for file in files:
            samples, name = read(file, info)
            try:
                found.append((file, await client.infer(info.name, samples, name, _id_of(file), trace=True)))
            except DeadlineExceeded:
                raise DeadlineExceeded(f"{file}: no answer within {timeout_seconds} s; give more --timeout") from None
    return found


def _id_of(file: Path) -> str:
    return file.name.encode(errors="replace").decode()[:100]


def read(file: Path, info: ModelInfo) -> tuple[npt.NDArray[Any], str]:
    """The samples in `file`, and the name of the input they fit: uint8 [N, H, W, C] or float32 [N, …]."""
    if file.suffix.lower() in _IMAGES:
        if info.image_shape is None:
            raise InvalidInput(f"{file}: model {info.name!r} does not take images; give a .npy of its input")
        return _image(file, info.image_shape), "image"
    if file.suffix.lower() == ".npy":
        return _array(file, info)
    raise InvalidInput(f"{file}: give .png, .jpg or .npy")


def _image(file: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    height, width, channels = shape
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise InvalidInput(f"{file}: more than {_MAX_PIXELS:,} pixels")
            fitted = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    except _UNREADABLE as error:
        raise InvalidInput(f"{file}: {getattr(error, 'strerror', None) or 'not an image that can be read'}") from None
    return np.asarray(fitted, np.uint8).reshape(1, height, width, channels)


def _array(file: Path, info: ModelInfo) -> tuple[npt.NDArray[Any], str]:
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(file, mode="r")  # only .npy, nothing read yet
    except _UNREADABLE as error:
        raise InvalidInput(f"{file}: {getattr(error, 'strerror', None) or 'not a .npy array of numbers'}") from None
    if array.dtype.kind not in "buif" or array.nbytes > _MAX_ARRAY_BYTES:
        raise InvalidInput(f"{file}: not a .npy array of real numbers below {_MAX_ARRAY_BYTES:,} bytes")
    if array.dtype == np.uint8 and info.image_shape is not None:
        fits, name = info.image_shape, "image"
        if fits[2] == 1 and array.shape[-2:] == fits[:2] and array.ndim in (2, 3):
            array = array.reshape(-1, *fits)
    else:
        fits, name = info.input_shape, info.input_name
        with np.errstate(over="ignore"):  # what is infinite then is refused by the tier
            array = array.astype(np.float32)
    array = array[None] if array.shape == fits else array
    if array.shape[1:] != fits:
        raise InvalidInput(f"{file}: shape {list(array.shape)} does not fit {name!r}, [N, {', '.join(map(str, fits))}]")
    return array, name


def as_json(file: Path, answer: Prediction) -> dict[str, Any]:
    """One answer as JSON values."""
    return {
        "file": str(file),
        **asdict(answer),
        "scores": [round(float(score), 6) for score in answer.scores],
        "tier": answer.tier.label,
    }


def shown(file: Path, answers: list[Prediction]) -> Group:
    """A line for each sample of the file, then the waterfall of the request they shared."""
    trace = answers[0].trace
    return Group(*(_line(file, answer) for answer in answers), waterfall(trace) if trace else "", "")


def _line(file: Path, answer: Prediction) -> str:
    mark = f"  [red]degraded: {answer.degraded_reason}[/]" if answer.degraded else ""
    return (
        f"[bold]{file.name}[/]  label [bold]{answer.label}[/]  confidence {answer.confidence:.4f}  "
        f"tier [bold]{answer.tier.label}[/]  exit {answer.exit_index}{mark}"
    )


def waterfall(trace: dict[str, Any]) -> Table:
    """Where the time went: one bar per stage that took any, in order, each starting where the last ended."""
    table = Table("tier", "stage", "ms", "", "bytes up", box=None, pad_edge=False)
    total, at = trace["seconds"] or 1.0, 0.0
    for hop in trace["hops"]:
        for stage in _STAGES:
            seconds = hop[f"{stage}_seconds"]
            if seconds > 0.0005 * total:
                bytes_up = f"{hop['bytes_up']:,}" if stage == "network" else ""
                table.add_row(hop["tier"], stage, f"{1000 * seconds:.2f}", _bar(at, seconds, total, stage), bytes_up)
            at += seconds
    table.add_row("", "all", f"{1000 * total:.2f}", "", "")
    return table


def _bar(at: float, seconds: float, total: float, stage: str) -> str:
    start = min(round(_WIDTH * at / total), _WIDTH - 1)
    length = max(round(_WIDTH * seconds / total), 1)
    return " " * start + f"[{_COLOURS[stage]}]{'█' * min(length, _WIDTH - start)}[/]"
