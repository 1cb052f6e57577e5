"""The attack finds what is there to be found, and nothing where nothing is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from services import bundle, codec
from services.errors import InvalidInput
from testbed.privacy import splits_of
from tests.conftest import ROOT
from training import datasets
from training.datasets import Dataset, Split

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")


def squares(count: int, seed: int) -> np.ndarray:
    """Images float32 [N, 12, 12, 1] with a bright square somewhere."""
    chooser, images = np.random.default_rng(seed), np.zeros((count, 12, 12, 1), np.float32)
    for image, (row, column) in zip(images, chooser.integers(0, 8, (count, 2)), strict=True):
        image[row : row + 4, column : column + 4] = 1
    return images


def attacked(activate: object, steps: int = 150) -> object:
    from training.reconstruct import attack

    known, seen = squares(300, 1), squares(20, 2)
    return attack(activate(known), known, activate(seen), seen, codec.get("fp32"), seed=1, steps=steps)  # type: ignore[operator]


def test_an_activation_that_is_the_image_gives_it_away() -> None:
    found = attacked(lambda images: np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    assert found.ssim > 0.9
    assert found.ssim > found.blind + 0.3


def test_an_activation_that_says_nothing_gives_nothing_away() -> None:
    found = attacked(lambda images: np.zeros((len(images), 4, 3, 3), np.float32))
    assert found.ssim < found.blind + 0.1


def test_what_is_attacked_keeps_its_brightness() -> None:
    """Scaled by its own greatest value, a dark image would come out as a bright one."""
    from training.reconstruct import attack

    known = squares(300, 1) * np.random.default_rng(3).uniform(0.2, 1, (300, 1, 1, 1)).astype(np.float32)
    dark = squares(20, 2) * np.float32(0.3)
    planes = [np.ascontiguousarray(images.transpose(0, 3, 1, 2)) for images in (known, dark)]
    found = attack(planes[0], known, planes[1], dark, codec.get("fp32"), seed=1, steps=150)
    assert found.drawn.max() < 0.6


def test_the_same_seed_draws_the_same() -> None:
    one, other = (attacked(lambda images: images.reshape(len(images), -1)[:, :50], steps=5) for _ in range(2))
    assert np.array_equal(one.drawn, other.drawn)


def test_images_of_all_classes_are_known_and_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    from testbed import privacy

    labels = np.repeat(np.arange(10), 200)
    images = np.broadcast_to(labels.astype(np.uint8)[:, None, None], (2000, 28, 28))
    split, known = Split(images, labels), []
    sorted_by_class = Dataset("digits", tuple("0123456789"), split, split, split, split, "")
    monkeypatch.setattr(datasets, "load", lambda name, data: sorted_by_class)
    monkeypatch.setattr(privacy, "attack", lambda activations, images, *rest: known.append(images))
    found = privacy.study(ROOT / "models" / "digits", None, [4], ["fp32"], 1, lambda steps: None, lambda: None)
    for images, each in ((known[0], 100), (found.images, 10)):
        shown = np.round(255 * images[:, 0, 0, 0]).astype(int)
        assert np.bincount(shown, minlength=10).tolist() == [each] * 10


def test_a_few_split_points_are_chosen_and_wrong_ones_refused() -> None:
    manifest = bundle.load(ROOT / "models" / "digits").manifest
    chosen = splits_of(manifest, None)
    assert 0 not in chosen
    assert len(chosen) == 6
    with pytest.raises(InvalidInput, match="0 is the input itself"):
        splits_of(manifest, [0])
    with pytest.raises(InvalidInput, match="split point 99"):
        splits_of(manifest, [3, 99])


def test_a_network_without_a_bottleneck_inside_asks_for_split_points() -> None:
    manifest = bundle.load(ROOT / "models" / "digits").manifest
    wide = tuple(point.model_copy(update={"natural": False}) for point in manifest.split_points)
    plain = manifest.model_copy(update={"split_points": wide, "exits": manifest.exits[-1:]})
    with pytest.raises(InvalidInput, match="digits has no bottleneck inside; choose split points with --splits"):
        splits_of(plain, None)
    assert splits_of(plain, [3]) == (3,)


def test_the_command_refuses_what_is_not_a_number(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "testbed.cli", "privacy", "models/digits", "--splits", "a", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--splits" in done.stderr
