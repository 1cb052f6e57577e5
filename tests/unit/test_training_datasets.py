from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from services.errors import InvalidInput
from training import cifar, datasets
from training.datasets import Split


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def _write_set(folder: Path, train: int = 120, test: int = 30, compress: bool = True) -> Path:
    """The four files of a data set in the format of MNIST, of random pixels."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for stem, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            raw = _idx(array)
            name = f"{stem}.gz" if compress else stem
            (folder / name).write_bytes(gzip.compress(raw) if compress else raw)
    return folder


def test_digits_are_1797_real_images_of_which_360_are_held_out() -> None:
    digits = datasets.load("digits")
    sizes = [len(split) for split in (digits.train, digits.validation, digits.calibration, digits.test)]
    assert sum(sizes) == 1797
    assert sizes[-1] == 360
    assert digits.test.images.shape == (360, 28, 28)
    assert digits.test.images.dtype == np.uint8
    assert digits.test.labels.dtype == np.int64


def test_the_splits_of_digits_share_no_image() -> None:
    digits = datasets.load("digits")
    splits = (digits.train, digits.validation, digits.calibration, digits.test)
    whole = np.concatenate([split.images.reshape(len(split), -1) for split in splits])
    from sklearn.datasets import load_digits

    distinct = len(np.unique(load_digits().data, axis=0))
    assert len(np.unique(whole, axis=0)) == distinct


def test_loading_twice_gives_the_same_splits() -> None:
    one, two = datasets.load("digits"), datasets.load("digits")
    assert one.data_hash == two.data_hash
    np.testing.assert_array_equal(one.test.images, two.test.images)
    np.testing.assert_array_equal(one.calibration.labels, two.calibration.labels)


@given(st.lists(st.integers(0, 4), min_size=5, max_size=200), st.integers(0, 99))
def test_every_prefix_of_the_order_holds_the_classes_in_proportion(labels: list[int], seed: int) -> None:
    values = np.array(labels)
    order = datasets.stratified_order(values, seed)
    assert sorted(order) == list(range(len(values)))
    half = values[order[: len(values) // 2]]
    for label in set(labels):
        assert abs(np.sum(half == label) - np.sum(values == label) / 2) <= 3


@pytest.mark.parametrize("compress", [True, False])
def test_idx_files_are_read_plain_and_compressed(tmp_path: Path, compress: bool) -> None:
    found = datasets.load("mnist", _write_set(tmp_path, compress=compress))
    sizes = [len(split) for split in (found.train, found.validation, found.calibration, found.test)]
    assert sizes == [94, 6, 20, 30]
    assert found.labels == tuple("0123456789")


def test_the_data_set_is_found_in_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "fashion_mnist").mkdir()
    _write_set(tmp_path / "fashion_mnist")
    assert datasets.load("fashion-mnist", tmp_path).labels[-1] == "Ankle boot"


def test_the_test_split_needs_only_its_own_two_files(tmp_path: Path) -> None:
    _write_set(tmp_path)
    for file in tmp_path.glob("train-*"):
        file.unlink()
    assert len(datasets.load_test("mnist", tmp_path)) == 30


def test_the_data_hash_follows_pixels_and_labels() -> None:
    split = Split(np.zeros((2, 28, 28), np.uint8), np.array([0, 1]))
    other_pixel = Split(split.images.copy(), split.labels)
    other_pixel.images[1, 3, 3] = 1
    other_label = Split(split.images, np.array([1, 1]))
    assert len({datasets.data_hash(s) for s in (split, other_pixel, other_label)}) == 3


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="digits, mnist, fashion-mnist"):
        datasets.load("imagenet")


def test_a_missing_folder_says_what_to_give() -> None:
    with pytest.raises(InvalidInput, match="--data"):
        datasets.load("mnist")


@pytest.mark.parametrize("load", [datasets.load, datasets.load_test])
def test_digits_take_no_folder(load: Callable[[str, Path], object], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="digits come with scikit-learn and need no --data"):
        load("digits", tmp_path)


def test_a_folder_without_the_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="t10k-labels"):
        datasets.load("mnist", tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00\x00\x08",
        b"\x00\x00\x08\x03\x00\x00",
        b"not an idx file at all",
        _idx(np.zeros((2, 28, 28), np.uint8))[:-1],
        _idx(np.zeros((2, 28, 28), np.uint8)) + b"\0",
        _idx(np.zeros(5, np.uint8)),
        gzip.compress(_idx(np.zeros((2, 28, 28), np.uint8)), mtime=0)[:-9],
        b"\x1f\x8bnot gzip",
        struct.pack(">HBB3I", 0, 8, 3, *(0xFFFFFFFF,) * 3),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "images"
    file.write_bytes(raw)
    with pytest.raises(InvalidInput, match=r"images.*download it again"):
        datasets.read_idx(file, 3)


def test_labels_that_do_not_fit_the_images_are_refused(tmp_path: Path) -> None:
    _write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(_idx(np.zeros(29, np.uint8)))
    with pytest.raises(InvalidInput, match="do not fit"):
        datasets.load("mnist", tmp_path)


def test_the_official_files_split_into_47000_3000_10000_and_10000(data: Path) -> None:
    for name in ("mnist", "fashion-mnist"):
        found = datasets.load(name, data)
        sizes = [len(split) for split in (found.train, found.validation, found.calibration, found.test)]
        assert sizes == [47_000, 3_000, 10_000, 10_000]


def _picture(value: int = 0, size: tuple[int, int] = (32, 32)) -> bytes:
    with io.BytesIO() as buffer:
        Image.new("RGB", size, (value, 0, 255)).save(buffer, "PNG")
        return buffer.getvalue()


def _zip(file: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.parent


def _write_pictures(folder: Path, train: int = 50, test: int = 10) -> Path:
    """The training pictures in two zip files, as many of every class."""
    names = [f"{cifar.CLASSES[i % 10]}/{i:04d}.png" for i in range(max(train, test))]
    pictures = {f"{part}/{name}": _picture(i) for part in ("train", "test") for i, name in enumerate(names)}
    of_train = [name for name in pictures if name.startswith("train")][:train]
    of_test = [name for name in pictures if name.startswith("test")][:test]
    for file, held in (("a.zip", of_train[::2]), ("b.zip", of_train[1::2]), ("test.zip", of_test)):
        _zip(folder / file, {name: pictures[name] for name in held})
    return folder


def test_pictures_in_zip_files_are_read_with_the_class_of_their_folder(tmp_path: Path) -> None:
    found = datasets.load("cifar10", _write_pictures(tmp_path))
    sizes = [len(split) for split in (found.train, found.validation, found.calibration, found.test)]
    assert sizes == [43, 2, 5, 10]
    assert found.labels[0] == "airplane"
    assert found.test.images.shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(found.test.images[:, 5, 6, 0] % 10, found.test.labels)


def test_binary_batches_of_cifar10_are_read_by_row_and_column_and_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8), np.arange(20) % 10
    records = np.concatenate([labels[:, None].astype(np.uint8), images.transpose(0, 3, 1, 2).reshape(20, -1)], axis=1)
    (tmp_path / "test_batch.bin").write_bytes(records.tobytes())
    found = datasets.load_test("cifar10", tmp_path)
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("raw", [b"", b"\0" * 3072, b"\x0a" + b"\0" * 3072])
def test_a_damaged_binary_batch_is_named(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "test_batch.bin").write_bytes(raw)
    with pytest.raises(InvalidInput, match=r"test_batch.bin.*download it again"):
        datasets.load_test("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("test/cat/0.png", b"no picture", "cannot identify"),
        ("test/cat/0.png", _picture(size=(33, 32)), "33x32"),
        ("test/cat/0.png", b"\0" * 70_000, "too large"),
        ("test/cow/0.png", _picture(), "cow"),
    ],
)
def test_a_wrong_picture_is_named(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    _zip(tmp_path / "test.zip", {name: content})
    with pytest.raises(InvalidInput, match=rf"test.zip.*{fault}"):
        datasets.load_test("cifar10", tmp_path)


def test_a_damaged_picture_in_a_zip_file_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "test.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name := "test/cat/0.png", _picture())
    start = 30 + len(name)  # behind the header of the member
    raw = bytearray((tmp_path / "test.zip").read_bytes())
    raw[start : start + 20] = b"\xff" * 20
    (tmp_path / "test.zip").write_bytes(raw)
    with pytest.raises(InvalidInput, match=r"test.zip.*download it again"):
        datasets.load_test("cifar10", tmp_path)


def test_a_picture_with_a_broken_part_is_named(tmp_path: Path) -> None:
    picture = _picture()
    at = picture.index(b"IDAT")
    broken = picture[: at - 4] + struct.pack(">I", 4) + picture[at : at + 8] + b"\0" * 40  # no chunk has such a name
    _zip(tmp_path / "test.zip", {"test/cat/0.png": broken})
    with pytest.raises(InvalidInput, match=r"test.zip.*broken PNG file.*download it again"):
        datasets.load_test("cifar10", tmp_path)


def test_one_zip_file_of_any_name_makes_a_data_set(tmp_path: Path) -> None:
    _zip(tmp_path / "pictures.zip", {f"{part}/cat/0.png": _picture() for part in ("train", "test")})
    assert len(datasets.load_test("cifar10", tmp_path)) == 1


def test_other_zip_files_do_not_hide_the_folder_of_the_data_set(tmp_path: Path) -> None:
    _zip(tmp_path / "other.zip", {"notes.txt": b"nothing"})
    (tmp_path / "cifar10").mkdir()
    _write_pictures(tmp_path / "cifar10")
    assert len(datasets.load_test("cifar10", tmp_path)) == 10


def test_a_broken_zip_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InvalidInput, match=r"test.zip.*download it again"):
        datasets.load_test("cifar10", tmp_path)


def test_zip_files_without_test_pictures_say_what_to_give(tmp_path: Path) -> None:
    _zip(tmp_path / "latest.zip", {"notes.txt": b"nothing"})
    with pytest.raises(InvalidInput, match=r"test/CLASS/NAME.jpg"):
        datasets.load_test("cifar10", tmp_path)


def test_cifar10_splits_into_43000_2000_5000_and_10000(data: Path) -> None:
    found = datasets.load("cifar10", data)
    sizes = [len(split) for split in (found.train, found.validation, found.calibration, found.test)]
    assert sizes == [43_000, 2_000, 5_000, 10_000]
    assert np.bincount(found.test.labels).tolist() == [1000] * 10
    assert np.bincount(found.calibration.labels).tolist() == [500] * 10
