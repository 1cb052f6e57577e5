"""From weights to a bundle, and what every shipped bundle holds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from services.bundle import NOT_CARRIED, Bundle, CodecAccuracy, load, load_samples
from services.domain import Segment
from services.errors import InvalidInput
from services.model import Model
from training import card, codec_accuracy, datasets, evaluate, export, train
from training.calibrate import NEVER, Contract, calibrate_bundle, calibrate_codecs
from training.datasets import Dataset
from training.models import NetworkConfig, ThreePartNetwork
from training.recipes import RECIPES

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = ("cifar10", "digits", "fashion-mnist", "mnist")
SMALL = NetworkConfig(
    device=(2, 3), device_sends=3, device_head=4, edge=(4, 5), edge_sends=4, edge_head=4, cloud=(6, 6)
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors: several threads would only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _few_bytes_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over 20 samples tells a test as much as one over 500."""
    monkeypatch.setattr(codec_accuracy, "BYTES_SAMPLES", 20)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="module")
def network() -> ThreePartNetwork:
    torch.manual_seed(0)
    return ThreePartNetwork(SMALL).eval()


@pytest.fixture
def fresh(network: ThreePartNetwork, digits: Dataset, tmp_path: Path) -> Path:
    """A bundle of random weights, not calibrated."""
    export.write_bundle(network, digits, (0.3,), (0.4,), tmp_path / "fresh")
    return tmp_path / "fresh"


@pytest.fixture(params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> Bundle:
    return load(MODELS / request.param)


def _inputs(bundle: Bundle, count: int) -> np.ndarray:
    shape = (count, *bundle.manifest.input.shape)
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


def _whole(bundle: Bundle, inputs: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(bundle.graph, options, ["CPUExecutionProvider"])
    return session.run(None, {bundle.manifest.input.name: inputs})


def test_the_exported_graph_answers_as_the_trained_network(network: ThreePartNetwork, fresh: Path) -> None:
    bundle = load(fresh)
    inputs = _inputs(bundle, 7)
    with torch.no_grad():
        expected = network(torch.from_numpy(inputs))
    for theirs, ours in zip(expected, _whole(bundle, inputs), strict=True):
        np.testing.assert_allclose(theirs.numpy(), ours, atol=1e-5)


def test_exporting_twice_gives_the_same_bytes(network: ThreePartNetwork) -> None:
    assert export.to_onnx(network) == export.to_onnx(network)


def test_an_uncalibrated_bundle_leaves_only_at_the_final_exit(fresh: Path, digits: Dataset) -> None:
    assert [spec.threshold for spec in load(fresh).manifest.exits] == [NEVER, NEVER, 0.0]
    result = evaluate.evaluate(Model(load(fresh)), digits.test)
    assert result.answered == (0, 0, 360)
    assert result.accuracy == result.full_accuracy


def test_digits_travel_with_their_bundle(fresh: Path, digits: Dataset) -> None:
    images, labels = load_samples(load(fresh))
    np.testing.assert_array_equal(images, digits.test.images)
    np.testing.assert_array_equal(labels, digits.test.labels)


def test_calibrating_a_bundle_writes_what_it_found_into_the_manifest(fresh: Path, digits: Dataset) -> None:
    returned = calibrate_bundle(fresh, digits.calibration, Contract(0.5))
    manifest = load(fresh).manifest
    assert manifest == returned
    assert manifest.calibration is not None
    assert manifest.calibration.samples == 400
    assert all(spec.curve for spec in manifest.exits)
    measured = {c.split_point for c in manifest.codec_accuracy}
    assert {0, *(spec.split_point for spec in manifest.exits[:-1])} <= measured


def test_calibrating_codecs_alone_leaves_the_exits_as_they_are(fresh: Path, digits: Dataset) -> None:
    before = load(fresh).manifest
    after = calibrate_codecs(fresh, digits.calibration)
    assert after == load(fresh).manifest
    assert after.codec_accuracy
    assert after.model_copy(update={"codec_accuracy": ()}) == before.model_copy(update={"codec_accuracy": ()})


def test_images_of_another_size_are_refused(fresh: Path) -> None:
    manifest = load(fresh).manifest
    with pytest.raises(InvalidInput, match="takes"):
        evaluate.preprocess(np.zeros((2, 32, 32), np.uint8), manifest)


def test_pixels_are_scaled_as_the_manifest_says(fresh: Path) -> None:
    pixels = np.full((1, 28, 28), 255, np.uint8)
    found = evaluate.preprocess(pixels, load(fresh).manifest)
    np.testing.assert_allclose(found, np.full((1, 1, 28, 28), (1 - 0.3) / 0.4), rtol=1e-6)


def test_bytes_per_hop_count_only_those_that_went_on(fresh: Path, digits: Dataset) -> None:
    few = digits.test.take(np.arange(10))
    result = evaluate.evaluate(Model(load(fresh)), few, codec="fp32")
    sizes = [load(fresh).manifest.split_points[s.split_point].bytes_fp32 for s in load(fresh).manifest.exits[:-1]]
    assert result.bytes_per_hop == (10 * sizes[0], 10 * sizes[1])


def test_one_command_makes_a_calibrated_and_described_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = dataclasses.replace(RECIPES["digits"], network=SMALL, batch_size=128)
    monkeypatch.setitem(train.RECIPES, "digits", quick)
    out = tmp_path / "quick"
    config = train.TrainConfig("digits", out, epochs=2, seed=3, contract=Contract(0.3))
    record = train.train(config)
    text = (out / "README.md").read_text()
    assert card.own_record(load(out)) == card.read_record(out) == record
    assert load(out).manifest.calibration is not None
    assert "offramp train --dataset digits --out models/quick --epochs 2 --seed 3" in text
    assert record.data_hash in text
    assert sorted(f.name for f in out.iterdir()) == [
        *("README.md", "manifest.json", "model.onnx", "samples.npz", "training.json")
    ]


def test_a_bundle_without_a_training_record_gets_no_card(fresh: Path, digits: Dataset) -> None:
    assert card.write_card(fresh, digits) is None
    assert not (fresh / "README.md").exists()


def test_a_card_says_which_codec_cannot_carry_an_activation() -> None:
    found = (
        CodecAccuracy(split_point=0, codec="int8", delta=-0.5, bytes_per_sample=9.0),
        CodecAccuracy(split_point=0, codec="int4", delta=NOT_CARRIED),
    )
    text = card._codecs(load(MODELS / "digits").manifest.model_copy(update={"codec_accuracy": found}))
    assert "| input | 0 | int8 | -50.000 | 9 |" in text
    assert "| input | 0 | int4 | not carried |  |" in text


def test_a_record_of_an_earlier_release_belongs_to_the_graph_it_lies_beside(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "digits", copy := tmp_path / "copy")
    record = json.loads((copy / "training.json").read_text())
    del record["graph_sha256"]
    (copy / "training.json").write_text(json.dumps(record))
    found = card.own_record(load(copy))
    assert found is not None
    assert found.graph_sha256 is None


def test_shipped_bundles_split_anywhere_equal_the_whole(shipped: Bundle) -> None:
    model, inputs = Model(shipped), _inputs(shipped, 3)
    whole = _whole(shipped, inputs)
    for split in range(1, model.last):
        logits, activation = [], inputs
        for segment in (Segment(0, split), Segment(split, model.last)):
            for piece in model.pieces(segment):
                activation, answer = model.run(piece, activation)
                logits += [] if answer is None else [answer]
        for ours, expected in zip(logits, whole, strict=True):
            np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=f"split {split}")


def test_shipped_bundles_answer_a_batch_of_64_exactly_as_64_single_samples(shipped: Bundle) -> None:
    inputs = _inputs(shipped, 64)
    together = evaluate.exit_logits(Model(shipped), inputs)
    alone = np.concatenate([evaluate.exit_logits(Model(shipped), row[None]) for row in inputs], axis=1)
    assert together.tobytes() == alone.tobytes()


def test_shipped_bundles_are_calibrated_described_and_under_5_megabytes(shipped: Bundle) -> None:
    files = [file for file in shipped.path.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 5_000_000
    assert shipped.manifest.calibration is not None
    assert shipped.manifest.model_hash in (shipped.path / "README.md").read_text()
    record = card.own_record(shipped)
    assert record is not None
    assert record.graph_sha256 == shipped.manifest.model_hash


def test_what_leaves_each_part_of_a_shipped_bundle_is_a_natural_bottleneck(shipped: Bundle) -> None:
    manifest = shipped.manifest
    sizes = [manifest.split_points[0].elements]
    sizes += [manifest.split_points[spec.split_point].elements for spec in manifest.exits]
    assert sizes == sorted(set(sizes), reverse=True)


def test_shipped_digits_are_answered_at_every_tier() -> None:
    bundle = load(MODELS / "digits")
    result = evaluate.evaluate(Model(bundle), datasets.Split(*load_samples(bundle)))
    assert result.samples == 360
    assert result.full_accuracy >= 0.98
    assert result.accuracy >= result.full_accuracy - 0.01
    assert min(result.answered) > 0


@pytest.mark.parametrize(
    ("name", "full", "loss", "at_device", "before_cloud"),
    [
        ("mnist", 0.994, 0.001, 0.95, 0.98),
        ("fashion-mnist", 0.925, 0.003, 0.0, 0.65),
        ("cifar10", 0.85, 0.005, 0.05, 0.2),
    ],
)
def test_shipped_bundles_meet_their_targets_on_the_test_images(
    data: Path, name: str, full: float, loss: float, at_device: float, before_cloud: float
) -> None:
    result = evaluate.evaluate(Model(load(MODELS / name)), datasets.load_test(name, data))
    assert result.full_accuracy >= full
    assert result.accuracy >= result.full_accuracy - loss
    assert result.answered[0] >= at_device * result.samples
    assert sum(result.answered[:2]) >= before_cloud * result.samples
