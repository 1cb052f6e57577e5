"""Data sets of small labelled images, split once and for all. Numpy only, so that evaluation needs no torch.

`digits` comes with scikit-learn. `mnist` and `fashion-mnist` are read from the user's own copies of the four
IDX files (gzip or plain); https://yann.lecun.com/exdb/mnist describes the format. `cifar10`: see `training.cifar`.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services import labelled
from services.errors import InvalidInput
from training import cifar

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

NAMES = ("digits", "mnist", "fashion-mnist", "cifar10")
_DIGITS = tuple("0123456789")
_CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_LABELS = {"mnist": _DIGITS, "fashion-mnist": _CLOTHES, "cifar10": cifar.CLASSES}
_HELD_OUT = {"mnist": (20, 6), "fashion-mnist": (20, 6), "cifar10": (25, 10)}  # one in so many: validation, calibration
_IDX_FILES = ("four IDX files", ("t10k-labels-idx1-ubyte*",))
_FILES = {
    "mnist": _IDX_FILES,
    "fashion-mnist": _IDX_FILES,
    "cifar10": ("zip files of pictures or binary batches", ("*test*.*", "*.zip")),
}  # what the folder of a data set holds, and the signs of it, the surest first
_SPLIT_SEED = 28  # the splits belong to the data set: they never follow the seed of a training
_UNSIGNED_BYTE = 8
_SIDE = 28


@dataclass(frozen=True, slots=True)
class Split:
    """uint8 images [N, H, W] or [N, H, W, C] and their int64 labels [N]."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.intp]) -> Split:
        return Split(self.images[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class Dataset:
    """Train for the weights, validation for early stopping, calibration for the exits, test for the report."""

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    calibration: Split
    test: Split
    data_hash: str


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """The data set `name`; `data_dir` is where its files lie, and is not needed for digits.

    Raises InvalidInput for an unknown name, a missing folder, one given for digits, or files that are not what they
    should be.
    """
    if name == "digits":
        return _digits(data_dir)
    folder = _folder(name, data_dir)
    train, test = _read(name, folder, "train"), _read(name, folder, "test")
    order = stratified_order(train.labels)
    validation, calibration, rest = _cut(train, order, tuple(len(train) // share for share in _HELD_OUT[name]))
    return Dataset(name, _LABELS[name], rest, validation, calibration, test, data_hash(train, test))


def load_test(name: str, data_dir: Path | None = None) -> Split:
    """The test split alone; the files of the training images are not needed. Raises as `load` does."""
    return _digits(data_dir).test if name == "digits" else _read(name, _folder(name, data_dir), "test")


def read_samples(file: Path, classes: int) -> Split:
    """Anybody's labelled images from an .npz: `images`, uint8 [N, H, W] or [N, H, W, C], `labels`, whole numbers [N].

    Raises InvalidInput for what is no such file, or has a label outside 0..classes - 1.
    """
    try:
        with file.open("rb") as data:
            images, labels = labelled.read(data)
    except (OSError, ValueError):
        raise InvalidInput(f"{file}: not an .npz with `images` and `labels`") from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InvalidInput(
            f"{file}: images are {images.dtype} {list(images.shape)}, not uint8 [N, H, W] or [N, H, W, C]"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or not len(labels):
        raise InvalidInput(f"{file}: labels are {labels.dtype} {list(labels.shape)}, not whole numbers, one an image")
    if labels.min() < 0 or labels.max() >= classes:
        raise InvalidInput(
            f"{file}: labels reach from {labels.min()} to {labels.max()}; the network knows 0 to {classes - 1}"
        )
    return Split(images, labels.astype(np.int64))


def stratified_order(labels: Labels, seed: int = _SPLIT_SEED) -> npt.NDArray[np.intp]:
    """A seeded order of the samples in which every prefix holds the classes in their overall proportion."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place, kind="stable")


def mixed(split: Split, seed: int = _SPLIT_SEED) -> Split:
    """The same samples in stratified order: the first ones then stand for all."""
    return split.take(stratified_order(split.labels, seed))


def data_hash(*splits: Split) -> str:
    """SHA-256 over shapes and bytes of images and labels, in the order they were read."""
    digest = hashlib.sha256()
    for split in splits:
        for array in (split.images, split.labels.astype("<i8")):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_idx(file: Path, dimensions: int) -> Images:
    """The uint8 array in an IDX file, plain or gzip.

    Raises InvalidInput where the magic number, the number of dimensions or the length is wrong.
    """
    raw = _read_raw(file)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE or raw[3] != dimensions:
        raise InvalidInput(f"{file}: not an IDX file of bytes in {dimensions} dimensions; download it again")
    start = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(raw[4:start].ljust(4 * dimensions, b"\0"), ">u4"))
    if len(raw) != start + math.prod(shape):
        raise InvalidInput(
            f"{file}: holds {len(raw)} bytes where {shape} needs {start + math.prod(shape)}; download it again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def _read_raw(file: Path) -> bytes:
    try:
        raw = file.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInput(f"{file}: cannot be read ({error}); download it again") from None


def _folder(name: str, data_dir: Path | None) -> Path:
    if name not in NAMES:
        raise InvalidInput(f"no data set {name!r}; choose one of {', '.join(NAMES)}")
    files, signs = _FILES[name]
    if data_dir is None:
        raise InvalidInput(f"{name} is not shipped; give --data with the folder of its {files}")
    candidates = (data_dir, data_dir / name, data_dir / name.replace("-", "_"))
    found = next((folder for sign in signs for folder in candidates if any(folder.glob(sign))), None)
    if found is None:
        raise InvalidInput(f"{data_dir}: holds no {' or '.join(signs)}; give --data with the {files} of {name}")
    return found


def _read(name: str, folder: Path, part: str) -> Split:
    if name == "cifar10":
        return Split(*cifar.read(folder, part))
    return _read_idx_pair(folder, "t10k" if part == "test" else part)


def _find(folder: Path, stem: str) -> Path | None:
    return next((file for file in (folder / f"{stem}.gz", folder / stem) if file.is_file()), None)


def _read_idx_pair(folder: Path, part: str) -> Split:
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte") or folder / f"{part}-images-idx3-ubyte.gz", 3)
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte") or folder / f"{part}-labels-idx1-ubyte.gz", 1)
    if len(images) != len(labels) or images.shape[1:] != (_SIDE, _SIDE) or len(labels) == 0 or labels.max() > 9:
        raise InvalidInput(f"{folder}: {part} has {images.shape} images and {len(labels)} labels; they do not fit")
    return Split(images, labels.astype(np.int64))


def _digits(data_dir: Path | None) -> Dataset:
    from sklearn.datasets import load_digits

    if data_dir is not None:
        raise InvalidInput(
            f"{data_dir}: digits come with scikit-learn and need no --data; labelled images of your own, "
            "for calibrate, eval and run, are an .npz file"
        )
    bunch = load_digits()
    whole = Split(np.stack([_enlarge(image) for image in bunch.images]), bunch.target.astype(np.int64))
    order = stratified_order(whole.labels)
    test, calibration, validation, train = _cut(whole, order, (360, 400, 137))
    return Dataset("digits", _DIGITS, train, validation, calibration, test, data_hash(whole))


def _enlarge(image: npt.NDArray[np.float64]) -> Images:
    """8x8 in 0..16 to uint8 28x28."""
    from PIL import Image

    pixels = np.round(image * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def _cut(whole: Split, order: npt.NDArray[np.intp], sizes: tuple[int, ...]) -> list[Split]:
    """Consecutive pieces of `order`; the last one is what the sizes leave over."""
    return [whole.take(rows) for rows in np.split(order, np.cumsum(sizes))]
