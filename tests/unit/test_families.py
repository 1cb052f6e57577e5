"""Published networks: their sizes are the published ones, their exits stand where they were asked for."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from services.errors import InvalidInput
from services.partition import partition
from training.families import FAMILIES, architecture
from training.families.efficientnet import rounded

torch = pytest.importorskip("torch")

from training.families.export import untrained  # noqa: E402
from training.families.network import BlockNetwork, build, settle, with_exits  # noqa: E402
from training.graphs import exported  # noqa: E402

PARAMETERS = {
    "efficientnet-b0": 5_288_548,
    "efficientnet-b1": 7_794_184,
    "efficientnet-b2": 9_109_994,
    "efficientnet-b3": 12_233_232,
    "efficientnet-b4": 19_341_616,
    "efficientnet-b5": 30_389_784,
    "efficientnet-b6": 43_040_704,
    "efficientnet-b7": 66_347_960,
    "efficientnetv2-b0": 7_139_704,
    "efficientnetv2-b1": 8_141_052,
    "efficientnetv2-b2": 10_096_086,
    "efficientnetv2-b3": 14_358_406,
    "efficientnetv2-s": 21_458_488,
    "efficientnetv2-m": 54_139_356,
    "efficientnetv2-l": 118_515_272,
    "mobilenetv2": 3_504_872,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
}
SIZES = (224, 240, 260, 300, 380, 456, 528, 600, 224, 240, 260, 300, 384, 480, 480, 224, 32, 32, 32, 32, 32)


def images(size: int, count: int = 8, seed: int = 0) -> np.ndarray:
    """Smooth float32 [N, 3, size, size]: a small random picture, enlarged."""
    small = torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 3, 4, 4)).astype(np.float32))
    return torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic").numpy()


def test_the_sizes_of_images_are_the_published_ones() -> None:
    assert tuple(found.size for found in FAMILIES.values()) == SIZES


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_has_as_many_parameters_as_published(name: str) -> None:
    with torch.device("meta"):
        network = build(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["efficientnet-b4", "efficientnetv2-b1", "mobilenetv2", "resnet20"])
def test_the_table_of_shapes_is_what_the_network_computes(name: str) -> None:
    found = architecture(name)
    with torch.device("meta"):
        network = BlockNetwork(found)
        maps = network.stem(torch.zeros(1, *found.input_shape))
        for block, shape in zip(network.blocks, found.block_shapes(), strict=True):
            maps = block(maps)
            assert tuple(maps.shape[1:]) == shape
        assert network.classifier(network.top(maps)).shape == (1, found.classes)


def test_channels_are_rounded_to_eights_and_by_v1_never_down_by_more_than_a_tenth() -> None:
    assert [rounded(c, 0.9) for c in (3, 19.2, 35.2, 38.4)] == [8, 24, 32, 40]
    assert [rounded(c, 0.0) for c in (3, 19.2, 35.2, 38.4)] == [8, 16, 32, 40]


def test_an_unknown_network_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="mobilenetv2"):
        architecture("alexnet")


@pytest.mark.parametrize("block", [0, -1, 9, 100])
def test_an_exit_can_follow_no_block_but_one_before_the_last(block: int) -> None:
    with pytest.raises(InvalidInput, match="it has 1 to 8"):
        with_exits(build("resnet20"), (block,))


def test_exits_stand_after_the_blocks_asked_for() -> None:
    model = untrained("resnet20", images(32), after=(6, 2, 6), classes=7)
    found = partition(model)
    points = [found.split_points[at] for at in found.exits.values()]
    assert [point.after.split("/")[1] for point in points] == ["blocks.1", "blocks.5", "classifier"]
    assert points[-1].shape == (7,)


def test_the_graph_answers_as_the_network_and_each_sample_alone_as_in_a_batch() -> None:
    network = with_exits(build("mobilenetv2", 10), (3,))
    settle(network, torch.from_numpy(images(64)), seed=3)
    graph = exported(network, (3, 64, 64), 2).SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    seen = images(64, 3, seed=5)
    together = session.run(None, {"input": seen})
    with torch.no_grad():
        expected = [logits.numpy() for logits in network(torch.from_numpy(seen))]
    for got, wanted in zip(together, expected, strict=True):
        assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max()
    alone = np.concatenate([session.run(None, {"input": image[None]})[1] for image in seen])
    np.testing.assert_allclose(together[1], alone, rtol=1e-5, atol=1e-5)


def test_settled_weights_come_from_the_seed() -> None:
    seen = torch.from_numpy(images(32))
    answers = []
    for seed in (1, 1, 2):
        network = build("resnet20")
        settle(network, seen, seed)
        with torch.no_grad():
            answers.append(network(seen))
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnetv2-s"])
def test_settled_weights_do_not_amplify_what_they_were_not_settled_on(name: str) -> None:
    network = build(name)
    seen = images(128)
    seen[-1] = np.random.default_rng(2).normal(size=seen[-1].shape)
    settle(network, torch.from_numpy(seen))
    foreign = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 128, 128)).astype(np.float32))
    with torch.no_grad():
        answers, nudged = network(foreign), network(foreign + 1e-5)
    assert answers.abs().max() < 100
    assert (answers - nudged).abs().max() < 1e-3 * answers.abs().max()
