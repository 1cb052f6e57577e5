"""A bundle: a model as Offramp deploys it. A directory with `manifest.json` and what it names.

The manifest is the contract between training, which writes it, and the tiers, which refuse to start with
a file whose SHA-256 is not the one written there.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from services import labelled
from services.errors import BundleError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_FILE_BYTES = 2 << 30
LEAST_STD = 1e-6
MEMORY_PER_BYTE = 4
"""Of a graph: in its file, parsed, and its weights as they run, in a session or more; 5 to 8 were measured."""

_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_INVISIBLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


def _harmless(text: str) -> str:
    """Raises ValueError for what would move a terminal's cursor, colour it or turn its lines around."""
    if any(unicodedata.category(letter) in _INVISIBLE or letter in _TURNING for letter in text):
        raise ValueError("must have no control characters")
    return text


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Text = Annotated[str, AfterValidator(_harmless)]
Dimension = Annotated[int, Field(ge=1, le=1 << 24)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Preprocessing(_Record):
    """How pixels become the input: x = (pixel / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[Annotated[float, Field(ge=LEAST_STD)], ...]


class InputSpec(_Record):
    """The input tensor. `shape` leaves out the batch dimension; images are [channels, height, width].

    `max_batch`: the most samples the graph takes at once; none: any number.
    """

    name: Text
    shape: tuple[Dimension, ...]
    dtype: Literal["float32"] = "float32"
    preprocessing: Preprocessing | None = None
    max_batch: Annotated[int, Field(ge=1)] | None = None

    def channels_fit(self) -> bool:
        p = self.preprocessing
        return p is None or (len(self.shape) == 3 and len(p.mean) == len(p.std) == self.shape[0])


class SplitPointSpec(_Record):
    """A place where one tensor crosses. `ratio` is c = |z| / |x| of Dynamic Split Computing.

    `natural`: fewer elements than the input. `compressive`: fewer than at every earlier split point.
    `still_input`: behind the input, which gets there without being weighed: rearranged, scaled, made smaller.
    """

    index: Annotated[int, Field(ge=0)]
    tensor: Text
    after: Text
    shape: tuple[Dimension, ...]
    elements: Annotated[int, Field(ge=1)]
    ratio: float
    natural: bool
    compressive: bool
    bytes_fp32: Annotated[int, Field(ge=1)]
    bytes_int8: Annotated[int, Field(ge=1)]
    still_input: bool = False


class CurvePoint(_Record):
    """At this threshold, this share of the samples that reach the exit leaves, with this accuracy."""

    threshold: float
    exit_rate: Share
    accuracy: Share | None = None


class ExitSpec(_Record):
    """A classifier after a split point. 0 = always leave; above 1 = never."""

    index: Annotated[int, Field(ge=0)]
    name: Name
    output: Text
    split_point: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    threshold: Annotated[float, Field(ge=0)] = 0.0
    curve: tuple[CurvePoint, ...] = ()


class CalibrationSpec(_Record):
    """What the thresholds promise: at most `epsilon` below the full network with confidence 1 - `delta`."""

    samples: Annotated[int, Field(ge=1)]
    epsilon: Share
    delta: Share
    full_accuracy: Share
    accuracy: Share
    harmful_upper_bound: Share


NOT_CARRIED = -1.0
"""The delta of a codec that cannot carry some activation there: nothing that arrives would be right."""


class CodecAccuracy(_Record):
    """What a codec does at a split point, measured on held-out samples; None is not measured.

    delta: accuracy of the rest of the network behind this codec, minus without it; `NOT_CARRIED` where there is none.
    bytes_per_sample: mean bytes on the wire of one sample encoded alone.
    """

    split_point: Annotated[int, Field(ge=0)]
    codec: Text
    delta: float | None = None
    bytes_per_sample: Annotated[float, Field(gt=0)] | None = None


class SamplesSpec(_Record):
    """Held-out inputs that travel with the bundle: an .npz with uint8 `images` and int64 `labels`."""

    file: FileName
    sha256: Sha256
    count: Annotated[int, Field(ge=1)]


class Manifest(_Record):
    """`manifest.json`, version 1."""

    format_version: Literal[1] = 1
    name: Name
    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")] = "1"
    graph: FileName = "model.onnx"
    graph_sha256: Sha256
    input: InputSpec
    labels: tuple[Text, ...] = Field(min_length=2)
    split_points: tuple[SplitPointSpec, ...] = Field(min_length=2)
    exits: tuple[ExitSpec, ...] = Field(min_length=1)
    confidence: Literal["max_softmax", "entropy", "margin"] = "max_softmax"
    calibration: CalibrationSpec | None = None
    codec_accuracy: tuple[CodecAccuracy, ...] = ()
    samples: SamplesSpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if [p.index for p in self.split_points] != list(range(len(self.split_points))):
            raise ValueError("split points must be numbered 0, 1, 2 … in order")
        if [e.index for e in self.exits] != list(range(len(self.exits))):
            raise ValueError("exits must be numbered 0, 1, 2 … in order")
        where = [e.split_point for e in self.exits]
        if where != sorted(set(where)) or where[-1] != self.last:
            raise ValueError("exits must follow each other, the final one at the last split point")
        if self.split_points[0].shape != self.input.shape or not self.input.channels_fit():
            raise ValueError("split point 0 must be the input, with one mean and std for each channel")
        if len({e.name for e in self.exits}) < len(self.exits):
            raise ValueError("exits must have names of their own")
        return self

    @model_validator(mode="after")
    def _codecs_where_there_are_points(self) -> Manifest:
        known = set[tuple[int, str]]()
        for each in self.codec_accuracy:
            if each.split_point > self.last:
                raise ValueError(f"codec_accuracy names split point {each.split_point}, there are 0..{self.last}")
            if (each.split_point, each.codec) in known:
                raise ValueError(f"codec_accuracy has {each.codec!r} at split point {each.split_point} twice")
            known.add((each.split_point, each.codec))
        return self

    @property
    def last(self) -> int:
        """The index of the last split point: the output of the whole network."""
        return len(self.split_points) - 1

    @property
    def first_activation(self) -> int:
        """The first split point where more crosses than the input in another form; the last one has nobody beyond."""
        return next((p.index for p in self.split_points[1:] if not p.still_input), self.last)

    @property
    def model_hash(self) -> str:
        """What two tiers compare: the SHA-256 of the graph."""
        return self.graph_sha256


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: the manifest, and the bytes of the graph that match it."""

    path: Path
    manifest: Manifest
    graph: bytes

    @property
    def manifest_path(self) -> Path:
        return self.path / MANIFEST


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def load(path: Path, memory_bytes: int | None = None) -> Bundle:
    """Reads and verifies the bundle at `path`; memory_bytes: what there is for running it, None: as much as it takes.

    Raises BundleError naming the file, and both hashes where they differ.
    """
    manifest = read_manifest(path)
    if memory_bytes is not None:
        _check_fits(path / manifest.graph, memory_bytes)
    return Bundle(path, manifest, _verified(path, manifest.graph, manifest.graph_sha256))


def read_manifest(path: Path) -> Manifest:
    """Reads `manifest.json` alone. Raises BundleError with every fault it found."""
    file = path / MANIFEST
    if not path.is_dir():
        raise BundleError(f"{path}: no such bundle directory here; 'offramp train' or 'offramp partition' makes one")
    if not file.is_symlink() and not file.exists():
        raise BundleError(f"{path}: {MANIFEST}: No such file; give the directory of a bundle")
    text = _read(file, MAX_MANIFEST_BYTES)
    try:
        version = json.loads(text).get("format_version")
    except (ValueError, AttributeError, RecursionError):
        raise BundleError(f"{file}: not a JSON object") from None
    if type(version) is not int or version != FORMAT_VERSION:
        raise BundleError(f"{file}: format_version is {repr(version)[:20]}, this release reads {FORMAT_VERSION}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors()[:5])
        raise BundleError(f"{file}: {''.join(letter if letter.isprintable() else '?' for letter in faults)}") from None


def _check_fits(file: Path, memory_bytes: int) -> None:
    needed = MEMORY_PER_BYTE * (file.stat().st_size if file.is_file() else 0)
    if needed > memory_bytes:
        raise BundleError(
            f"{file}: this graph takes {needed:,} bytes of memory and more, there are {memory_bytes:,}; "
            "serve it on a larger machine, or see memory_bytes"
        )


def load_samples(bundle: Bundle) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The held-out inputs in the bundle: uint8 [N, H, W] or [N, H, W, C] and int64 labels [N]."""
    spec = bundle.manifest.samples
    if spec is None:
        raise BundleError(f"{bundle.path}: carries no samples; give --data with a data set")
    data = _verified(bundle.path, spec.file, spec.sha256)
    try:
        held = labelled.read(io.BytesIO(data), 8 * spec.count * (1 + math.prod(bundle.manifest.input.shape)))
        images, labels = held[0].astype(np.uint8), held[1].astype(np.int64)
        if images.ndim not in (3, 4) or labels.ndim != 1:
            raise ValueError("other dimensions")
    except (ValueError, TypeError):
        raise BundleError(f"{bundle.path / spec.file}: not an .npz with images and labels") from None
    if not len(images) == len(labels) == spec.count:
        raise BundleError(f"{bundle.path / spec.file}: {len(images)} images and {len(labels)} labels, not {spec.count}")
    if labels.min() < 0 or labels.max() >= len(bundle.manifest.labels):
        raise BundleError(
            f"{bundle.path / spec.file}: labels reach from {labels.min()} to {labels.max()}; "
            f"the network knows 0 to {len(bundle.manifest.labels) - 1}"
        )
    return images, labels


def write_samples(
    path: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], name: str = "samples.npz"
) -> SamplesSpec:
    """Writes the held-out inputs into the bundle at `path` and returns what the manifest says of them."""
    with io.BytesIO() as buffer:
        np.savez_compressed(buffer, images=images.astype(np.uint8), labels=labels.astype(np.int64))
        data = buffer.getvalue()
    _replace(path / name, data)
    return SamplesSpec(file=name, sha256=sha256(data), count=len(labels))


def write(path: Path, manifest: Manifest, graph: bytes | None = None) -> None:
    """Writes graph, then manifest, each at once, so that a reader never sees half of one."""
    path.mkdir(parents=True, exist_ok=True)
    if graph is not None:
        if sha256(graph) != manifest.graph_sha256:
            raise BundleError(f"{path / manifest.graph}: the graph is not the one the manifest names")
        _replace(path / manifest.graph, graph)
    _replace(path / MANIFEST, (json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n").encode())


def _replace(file: Path, data: bytes) -> None:
    draft = file.with_name(f".{file.name}.new")
    draft.write_bytes(data)
    draft.replace(file)


def _read(file: Path, limit: int) -> bytes:
    """The bytes of a regular file inside its bundle. Raises BundleError for anything else, before reading it."""
    try:
        inside = file.resolve(strict=True).is_relative_to(file.parent.resolve())
        found = file.stat()
        if not inside:
            raise BundleError(f"{file}: links outside its bundle")
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            raise BundleError(f"{file}: not a regular file of at most {limit:,} bytes")
        return file.read_bytes()
    except (OSError, RuntimeError) as error:  # pathlib's word for links that lead in a circle
        raise BundleError(f"{str(file)[:500]}: {getattr(error, 'strerror', None) or 'cannot be read'}") from None


def _verified(path: Path, name: str, expected: str) -> bytes:
    file = path / name
    data = _read(file, MAX_FILE_BYTES)
    if (actual := sha256(data)) != expected:
        raise BundleError(f"{file}: SHA-256 is {actual}, the manifest says {expected}")
    return data
