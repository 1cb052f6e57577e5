"""The network, its augmentation, and joint training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from services.errors import InvalidInput
from training import fit as fitting
from training.augment import Augmentation, augment
from training.datasets import Dataset, Split
from training.models import NetworkConfig, ThreePartNetwork, part_sizes
from training.recipes import RECIPES, Recipe
from training.residual import Disturbance, ResidualConfig, Stage

TINY = Recipe(
    NetworkConfig(device=(2, 2), device_sends=2, device_head=2, edge=(3, 3), edge_sends=2, edge_head=2, cloud=(4,)),
    Augmentation(degrees=5, shift=1, flip=0.5, erase=0.5),
    epochs=4,
    batch_size=16,
)

TINY_RESIDUAL = ResidualConfig(
    device=(Stage(2, 1), Stage(3, 0, 4, join=True)),
    device_head=(2, 2),
    edge=(Stage(4, 1), Stage(2, join=True)),
    edge_head=(3, 3),
    cloud=(Stage(5, 1),),
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors: several threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def pictures() -> Dataset:
    """Two classes that are easy to tell apart: bright above or bright below."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    images = rng.integers(0, 60, (96, 28, 28))
    images[labels == 0, :14] += 150
    images[labels == 1, 14:] += 150
    whole = Split(images.astype(np.uint8), labels)
    parts = [whole.take(np.arange(a, b)) for a, b in ((0, 48), (48, 64), (64, 80), (80, 96))]
    return Dataset("pictures", ("up", "down"), *parts, data_hash="0" * 64)


@pytest.fixture
def colours() -> Dataset:
    """Two classes that are easy to tell apart: reddish or bluish."""
    rng = np.random.default_rng(0)
    labels = np.arange(96) % 2
    images = rng.integers(0, 60, (96, 32, 32, 3))
    images[labels == 0, :, :, 0] += 150
    images[labels == 1, :, :, 2] += 150
    whole = Split(images.astype(np.uint8), labels)
    parts = [whole.take(np.arange(a, b)) for a, b in ((0, 48), (48, 64), (64, 80), (80, 96))]
    return Dataset("colours", ("red", "blue"), *parts, data_hash="1" * 64)


@pytest.mark.parametrize("name", RECIPES)
def test_what_leaves_a_part_is_smaller_than_what_entered_it(name: str) -> None:
    network = RECIPES[name].network.build()
    entered = network.channels * network.side**2
    sizes = [entered, *(part.elements_out for part in part_sizes(network))]
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize(
    "name", [name for name, recipe in RECIPES.items() if isinstance(recipe.network, NetworkConfig)]
)
def test_each_part_is_larger_than_the_one_before_and_the_cloud_works_most(name: str) -> None:
    device, edge, cloud = part_sizes(RECIPES[name].network.build())
    assert device.parameters < edge.parameters < cloud.parameters
    assert max(device.multiply_accumulates, edge.multiply_accumulates) < cloud.multiply_accumulates


@pytest.mark.parametrize("config", [TINY.network, TINY_RESIDUAL])
def test_part_sizes_count_every_weight_once(config: NetworkConfig | ResidualConfig) -> None:
    network = config.build()
    assert sum(part.parameters for part in part_sizes(network)) == sum(p.numel() for p in network.parameters())


def test_every_exit_answers_for_every_sample() -> None:
    outputs = ThreePartNetwork(TINY.network).eval()(torch.zeros(5, 1, 28, 28))
    assert [tuple(logits.shape) for logits in outputs] == [(5, 10)] * 3


def test_the_network_for_cifar10_is_work_enough_to_be_shared() -> None:
    device, edge, cloud = part_sizes(RECIPES["cifar10"].network.build())
    work = device.multiply_accumulates + edge.multiply_accumulates + cloud.multiply_accumulates
    assert 60e6 <= work <= 120e6
    assert 0.25 <= device.multiply_accumulates / work <= 0.4  # pictures need work before they can be made small
    assert device.parameters + edge.parameters + cloud.parameters <= 1_100_000


def test_every_exit_of_a_residual_network_answers_for_every_sample() -> None:
    outputs = TINY_RESIDUAL.build().eval()(torch.zeros(5, 3, 32, 32))
    assert [tuple(logits.shape) for logits in outputs] == [(5, 10)] * 3


def test_joins_are_disturbed_by_half_a_step_at_most_and_only_while_training() -> None:
    sent, disturbance = torch.rand(4, 3, 8, 8), Disturbance(levels=15)
    step = (sent.flatten(1).amax(1) - sent.flatten(1).amin(1)) / 15
    moved = (disturbance.train()(sent) - sent).abs().flatten(1).amax(1)
    assert bool((moved <= step / 2 + 1e-6).all())
    assert bool((moved > step / 4).all())
    assert torch.equal(disturbance.eval()(sent), sent)


def test_a_view_without_any_change_is_the_image_itself() -> None:
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(augment(images, Augmentation(), Generator().manual_seed(1)), images)


def test_views_follow_the_generator_and_stay_in_range() -> None:
    images = torch.rand(8, 1, 28, 28)
    one, two, other = (augment(images, TINY.augmentation, Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == images.shape
    assert 0 <= float(one.min()) <= float(one.max()) <= 1


def test_cropping_moves_whole_pixels_and_mirrors_the_border() -> None:
    image = torch.arange(32 * 32).float().reshape(1, 1, 32, 32)
    padded = torch.nn.functional.pad(image, (3,) * 4, mode="reflect")
    views = {(top, left): padded[:, :, top : top + 32, left : left + 32] for top in range(7) for left in range(7)}
    seen = set()
    for seed in range(40):
        view = augment(image, Augmentation(crop=3), Generator().manual_seed(seed))
        seen |= {place for place, expected in views.items() if torch.equal(view, expected)}
    assert len(seen) > 20


def test_images_of_a_batch_are_cropped_apart_and_their_channels_together() -> None:
    images = torch.rand(1, 1, 32, 32).expand(16, 3, 32, 32)
    views = augment(images, Augmentation(crop=4), Generator().manual_seed(0))
    assert torch.equal(views[:, 0], views[:, 2])
    assert len({view.numpy().tobytes() for view in views}) > 8


def test_erasing_blackens_one_rectangle_of_the_asked_size() -> None:
    view = augment(torch.ones(1, 1, 28, 28), Augmentation(erase=1.0, erased_pixels=(4, 6)), Generator().manual_seed(0))
    rows, columns = torch.nonzero(view[0, 0] < 0.5, as_tuple=True)
    height, width = int(rows.max() - rows.min() + 1), int(columns.max() - columns.min() + 1)
    assert len(rows) == height * width
    assert 4 <= height <= 6
    assert 4 <= width <= 6


def test_training_learns_what_can_be_learnt(pictures: Dataset, tmp_path: Path) -> None:
    recipe = dataclasses.replace(TINY, epochs=20, augmentation=Augmentation(), learning_rate=0.02)
    result = fitting.fit(pictures, recipe, seed=0, checkpoint=tmp_path / "c.safetensors")
    assert min(result.best.validation_accuracies) == 1.0
    assert result.best.validation_loss == min(epoch.validation_loss for epoch in result.history)


def test_a_residual_network_learns_from_colours_and_repeats_itself(colours: Dataset, tmp_path: Path) -> None:
    recipe = Recipe(TINY_RESIDUAL, Augmentation(flip=0.5, crop=2), epochs=12, batch_size=16, learning_rate=0.02)
    one, two = (fitting.fit(colours, recipe, 3, tmp_path / "c.safetensors") for _ in range(2))
    assert one.best.validation_accuracies[-1] == 1.0
    assert _same(one, two)
    pixels = colours.train.images / 255
    np.testing.assert_allclose(one.mean, pixels.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(one.std, pixels.std((0, 1, 2)), atol=1e-4)


def _weights(result: fitting.TrainResult) -> dict[str, torch.Tensor]:
    return result.network.state_dict()


def _same(one: fitting.TrainResult, two: fitting.TrainResult) -> bool:
    pairs = zip(_weights(one).values(), _weights(two).values(), strict=True)
    return one.history == two.history and all(torch.equal(a, b) for a, b in pairs)


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(pictures: Dataset, tmp_path: Path) -> None:
    one, two, other = (fitting.fit(pictures, TINY, seed, tmp_path / "c.safetensors") for seed in (5, 5, 6))
    assert _same(one, two)
    assert not _same(one, other)


def test_a_resumed_training_equals_an_uninterrupted_one(
    pictures: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitting.fit(pictures, TINY, 5, tmp_path / "whole.safetensors")
    checkpoint = tmp_path / "stopped.safetensors"
    _interrupt_in_epoch(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        fitting.fit(pictures, TINY, 5, checkpoint)
    monkeypatch.undo()
    resumed = fitting.fit(pictures, TINY, 5, checkpoint, resume=True)
    assert len(resumed.history) == TINY.epochs
    assert _same(whole, resumed)


def _interrupt_in_epoch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the first step of that epoch."""
    step = fitting._Training._step

    def interrupted(training: fitting._Training, *arguments: object) -> float:
        if len(training.progress.history) == number - 1:
            raise KeyboardInterrupt
        return step(training, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting._Training, "_step", interrupted)


def test_a_finished_training_resumes_to_its_result(pictures: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    whole = fitting.fit(pictures, TINY, 5, checkpoint)
    assert _same(whole, fitting.fit(pictures, TINY, 5, checkpoint, resume=True))


def test_training_stops_when_validation_stopped_getting_better(pictures: Dataset, tmp_path: Path) -> None:
    still = dataclasses.replace(TINY, epochs=50, patience=2, learning_rate=0.0, weight_decay=0.0)
    result = fitting.fit(pictures, still, 0, tmp_path / "c.safetensors")
    assert len(result.history) < 50
    assert len(result.history) == result.best.number + 2


def test_a_checkpoint_of_another_seed_is_not_taken_up(pictures: Dataset, tmp_path: Path) -> None:
    checkpoint = tmp_path / "c.safetensors"
    fitting.fit(pictures, dataclasses.replace(TINY, epochs=1), 5, checkpoint)
    with pytest.raises(InvalidInput, match="another data set, recipe or seed"):
        fitting.fit(pictures, dataclasses.replace(TINY, epochs=1), 6, checkpoint, resume=True)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors"])
def test_resuming_without_a_usable_checkpoint_says_so(pictures: Dataset, tmp_path: Path, content: bytes | None) -> None:
    checkpoint = tmp_path / "c.safetensors"
    if content is not None:
        checkpoint.write_bytes(content)
    with pytest.raises(InvalidInput, match="train without --resume"):
        fitting.fit(pictures, TINY, 5, checkpoint, resume=True)


def test_the_learning_rate_rises_for_a_fifth_and_then_falls() -> None:
    rates = [fitting.one_cycle(step / 100) for step in range(101)]
    assert rates[20] == pytest.approx(1)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)
