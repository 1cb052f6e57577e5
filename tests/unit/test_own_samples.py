"""Calibrating, evaluating and running a bundle on anybody's labelled images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from services import bundle
from services.bundle import NOT_CARRIED, CodecAccuracy
from services.domain import FloatArray, Segment
from services.errors import InvalidInput
from services.model import Model
from testbed.cli import app
from testbed.samples import held_out
from tests.networks import write_bundle
from training import calibrate, codec_accuracy, datasets, evaluate
from training.calibrate import NEVER
from training.datasets import Split

DIGITS = Path(__file__).parents[2] / "models" / "digits"


@pytest.fixture(autouse=True)
def _few_bytes_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over 20 samples tells a test as much as one over 500."""
    monkeypatch.setattr(codec_accuracy, "BYTES_SAMPLES", 20)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network as if somebody had brought it: no calibration, a name of its own, no card, no samples."""
    path = tmp_path_factory.mktemp("own") / "mine"
    shutil.copytree(DIGITS, path)
    for name in ("README.md", "training.json"):
        (path / name).unlink()
    given = bundle.read_manifest(path)
    exits = tuple(spec.model_copy(update={"threshold": NEVER, "curve": ()}) for spec in given.exits[:-1])
    fresh = {
        "name": "mine",
        "exits": (*exits, given.exits[-1]),
        "calibration": None,
        "codec_accuracy": (),
        "samples": None,
    }
    bundle.write(path, given.model_copy(update=fresh))
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("samples") / "labelled.npz"
    split = datasets.load("digits").calibration
    np.savez(file, images=split.images, labels=split.labels)
    return file


def offramp(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_own_labelled_images_let_exits_be_trusted_and_codecs_be_known(mine: Path, labelled: Path) -> None:
    told = offramp("calibrate", mine, "--data", labelled, "--epsilon", "0.02")
    manifest = bundle.load(mine).manifest
    assert manifest.calibration is not None
    assert manifest.calibration.samples == 400
    assert manifest.exits[0].threshold < 1
    assert manifest.codec_accuracy
    assert "nobody leaves early" not in told
    assert '"samples": 400' in offramp("eval", mine, "--data", labelled, "--json")


def test_a_network_that_answers_a_sample_with_no_number_keeps_the_manifest_it_has(
    mine: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_logits = evaluate.exit_logits

    def with_a_gap(model: Model, inputs: FloatArray) -> FloatArray:
        logits = exit_logits(model, inputs)
        logits[0, 0] = np.nan
        return logits

    monkeypatch.setattr(evaluate, "exit_logits", with_a_gap)
    before = (mine / "manifest.json").read_bytes()
    refused = CliRunner().invoke(app, ["calibrate", str(mine), "--data", str(labelled)])
    assert isinstance(refused.exception, InvalidInput)
    assert "exit 0 answers 1 of 400 samples with numbers that are not finite" in str(refused.exception)
    assert (mine / "manifest.json").read_bytes() == before


def test_too_few_to_prove_anything_are_told_so(mine: Path, labelled: Path) -> None:
    told = offramp("calibrate", mine, "--data", labelled, "--epsilon", "0.001")
    assert "400 samples cannot prove that at most 0.001 of accuracy is lost, so nobody leaves early" in told
    assert all(spec.threshold > 1 for spec in bundle.load(mine).manifest.exits[:-1])


def test_a_network_that_takes_one_sample_at_a_time_is_calibrated_and_measured(
    mine: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_accuracy, "ACCURACY_SAMPLES", 20)
    shutil.copytree(mine, single := tmp_path / "single")
    given = bundle.read_manifest(single)
    bundle.write(single, given.model_copy(update={"input": given.input.model_copy(update={"max_batch": 1})}))
    biggest = 0
    check = Model.run

    def watched(self: Model, piece: Segment, tensor: np.ndarray) -> Any:
        nonlocal biggest
        biggest = max(biggest, len(tensor))
        return check(self, piece, tensor)

    monkeypatch.setattr(Model, "run", watched)
    offramp("calibrate", single, "--data", labelled, "--epsilon", "0.02")
    assert biggest == 1


def test_the_first_samples_of_a_file_stand_for_all_of_it(mine: Path, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(10), 50)
    np.savez(tmp_path / "sorted.npz", images=np.zeros((500, 28, 28), np.uint8), labels=labels)
    first = held_out(bundle.load(mine), tmp_path / "sorted.npz", 100).labels
    assert np.bincount(first, minlength=10).tolist() == pytest.approx([10] * 10, abs=1)


def test_the_first_samples_of_a_data_set_stand_for_all_of_it(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mine, path := tmp_path / "pictures")
    bundle.write(path, bundle.read_manifest(path).model_copy(update={"name": "cifar10"}))
    sorted_by_class = Split(np.zeros((500, 32, 32, 3), np.uint8), np.repeat(np.arange(10), 50))
    monkeypatch.setattr(datasets, "load_test", lambda name, data: sorted_by_class)
    first = held_out(bundle.load(path), tmp_path, 100).labels
    assert np.bincount(first, minlength=10).tolist() == pytest.approx([10] * 10, abs=1)


@pytest.mark.parametrize("command", ["eval", "calibrate"])
def test_a_folder_of_data_is_not_ignored_for_digits(command: str, tmp_path: Path) -> None:
    shutil.copytree(DIGITS, copy := tmp_path / "copy")
    before = (copy / "manifest.json").read_bytes()
    refused = CliRunner().invoke(app, [command, str(copy), "--data", str(tmp_path)])
    assert isinstance(refused.exception, InvalidInput)
    assert "digits come with scikit-learn and need no --data" in str(refused.exception)
    assert (copy / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("asked", [("--epsilon", "0.1"), ("--delta", "0.1")])
def test_what_is_asked_of_the_exits_is_refused_where_only_codecs_are_measured(asked: tuple[str, str]) -> None:
    refused = CliRunner().invoke(app, ["calibrate", str(DIGITS), "--codecs-only", *asked])
    assert isinstance(refused.exception, InvalidInput)
    assert "--codecs-only leaves the exits alone" in str(refused.exception)


def test_what_cannot_be_carried_or_was_measured_before_is_not_counted_as_measured(
    mine: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mine, copy := tmp_path / "copy")
    before = CodecAccuracy(split_point=1, codec="int8", delta=0.0, bytes_per_sample=9.0)
    bundle.write(copy, bundle.read_manifest(copy).model_copy(update={"codec_accuracy": (before,)}))
    found = (
        CodecAccuracy(split_point=0, codec="int8", delta=0.0, bytes_per_sample=9.0),
        CodecAccuracy(split_point=0, codec="int2", delta=-0.5, bytes_per_sample=3.0),
        CodecAccuracy(split_point=8, codec="int8", delta=-0.1, bytes_per_sample=6.0),
        CodecAccuracy(split_point=14, codec="int8", delta=NOT_CARRIED),
    )
    monkeypatch.setattr(calibrate, "codec_accuracies", lambda *given: found)
    told = offramp("calibrate", copy, "--data", labelled, "--codecs-only")
    assert "mine: measured 3 codecs at 2 split points" in told


def test_a_card_that_tells_of_another_calibration_is_named(mine: Path, labelled: Path, tmp_path: Path) -> None:
    """In one line, however long its path is, so that it can be copied."""
    shutil.copytree(mine, carded := tmp_path / ("deep" * 20) / "carded")
    (carded / "README.md").write_text("as trained")
    told = offramp("calibrate", carded, "--data", labelled, "--codecs-only")
    assert f"{carded / 'README.md'} still tells of the calibration before" in told
    assert (carded / "README.md").read_text() == "as trained"


@pytest.mark.parametrize("arguments", [(), ("--codecs-only",), ("--data", "labelled.npz")])
def test_a_card_and_a_record_of_another_graph_stay_as_they_are_and_are_named(
    tmp_path: Path, labelled: Path, arguments: tuple[str, ...]
) -> None:
    shutil.copytree(DIGITS, copy := tmp_path / "copy")
    adopted = bundle.load(copy)
    model = onnx.load_model_from_string(adopted.graph)
    model.doc_string = "another"
    graph = model.SerializeToString()
    bundle.write(copy, adopted.manifest.model_copy(update={"graph_sha256": bundle.sha256(graph)}), graph)
    before = [(copy / name).read_bytes() for name in ("README.md", "training.json")]
    given = [labelled if each == "labelled.npz" else each for each in arguments]
    told = offramp("calibrate", copy, *given)
    assert f"{copy / 'training.json'} is of another graph: it is left alone, and so is {copy / 'README.md'}" in told
    assert [(copy / name).read_bytes() for name in ("README.md", "training.json")] == before


@pytest.mark.parametrize(
    "written", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, {"more": 1}, {"minutes": "long"}, {"parts": [{}]}]
)
@pytest.mark.parametrize("arguments", [(), ("--codecs-only",), ("--data", "labelled.npz")])
def test_a_training_record_that_is_none_is_told_of_before_anything_is_measured(
    tmp_path: Path, labelled: Path, written: bytes | dict[str, Any], arguments: tuple[str, ...]
) -> None:
    shutil.copytree(DIGITS, copy := tmp_path / "copy")
    record = json.loads((copy / "training.json").read_text())
    text = written if isinstance(written, bytes) else json.dumps(record | written).encode()
    (copy / "training.json").write_bytes(text)
    before = (copy / "manifest.json").read_bytes()
    given = [str(labelled) if each == "labelled.npz" else each for each in arguments]
    refused = CliRunner().invoke(app, ["calibrate", str(copy), *given])
    assert isinstance(refused.exception, InvalidInput)
    assert str(refused.exception) == f"{copy / 'training.json'}: not a training record; remove it or train again"
    assert (copy / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "not an .npz with `images` and `labels`"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([None, None])}, "not an .npz"),
        ({"images": np.zeros((2, 8, 8), np.float32), "labels": np.zeros(2, np.int64)}, "images are float32"),
        ({"images": np.zeros((2, 64), np.uint8), "labels": np.zeros(2, np.int64)}, r"uint8 \[2, 64\]"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2)}, "labels are float64"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(3, np.int64)}, "one an image"),
        ({"images": np.zeros((0, 8, 8), np.uint8), "labels": np.zeros(0, np.int64)}, "one an image"),
        (
            {"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, 99])},
            "from 0 to 99; the network knows 0 to",
        ),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, -1])}, "from -1 to 0"),
    ],
)
def test_what_is_no_file_of_labelled_images_is_refused(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], reason: str
) -> None:
    file = tmp_path / "mine.npz"
    np.savez(file, **arrays)
    loaded = bundle.load(write_bundle(tmp_path / "tiny"))
    with pytest.raises(InvalidInput, match=reason):
        held_out(loaded, file)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mine.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"mine\.npz: not an \.npz"):
        datasets.read_samples(file, 10)
