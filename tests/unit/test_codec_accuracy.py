"""What calibration measures of codecs: which split points, what is lost, how many bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_agent.planner import rank
from services import codec
from services.bundle import NOT_CARRIED, CodecAccuracy, Preprocessing, load
from services.domain import FloatArray, Policy, Segment, Tier
from services.model import Model, SegmentOutput
from tests.problems import three
from training.codec_accuracy import codec_accuracies, final_labels, mean_bytes, useful_split_points, with_bytes


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    return Model(load(tiny))


@pytest.fixture(scope="module")
def inputs(model: Model) -> FloatArray:
    return np.random.default_rng(0).normal(0, 1, (70, *model.manifest.input.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def found(model: Model, inputs: FloatArray) -> tuple[CodecAccuracy, ...]:
    return codec_accuracies(model, inputs, final_labels(model, 0, inputs))


def test_the_input_the_natural_bottlenecks_and_the_exits_are_measured_with_every_codec(
    model: Model, found: tuple[CodecAccuracy, ...]
) -> None:
    points = useful_split_points(model.manifest)
    assert {0, *(spec.split_point for spec in model.manifest.exits[:-1])} <= set(points)
    assert model.last not in points
    assert all(model.manifest.split_points[point].natural for point in points if point and not model.exit_at(point))
    expected = {(point, name) for point in points for name in codec.usable(model.manifest, point)}
    assert {(each.split_point, each.codec) for each in found} == expected


def test_what_loses_nothing_costs_nothing_and_fewer_bits_cost_more(found: tuple[CodecAccuracy, ...]) -> None:
    by_name = {(each.split_point, each.codec): each for each in found}
    assert all(each.delta == 0 for each in found if each.codec.startswith("fp32"))
    deltas = [sum(each.delta or 0 for (_, name), each in by_name.items() if name == base) for base in ("int8", "int2")]
    assert deltas[1] < deltas[0] <= 0, "the labels are the network's own, so that every change is a loss"


def test_a_lossless_stage_has_the_delta_of_what_it_follows(found: tuple[CodecAccuracy, ...]) -> None:
    by_name = {(each.split_point, each.codec): each.delta for each in found}
    assert all(delta == by_name[at, name.split("+")[0]] for (at, name), delta in by_name.items())


def test_no_plan_cuts_where_no_codec_can_carry_what_crosses_and_the_rest_is_measured(
    model: Model, inputs: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, run = useful_split_points(model.manifest)[1], Model.run

    def overflowing(self: Model, piece: Segment, tensor: FloatArray) -> SegmentOutput:
        activation, logits = run(self, piece, tensor)
        if piece.end == lost:
            activation[0] = np.inf
        return activation, logits

    monkeypatch.setattr(Model, "run", overflowing)
    found = codec_accuracies(model, inputs, np.zeros(len(inputs), np.int64))
    deltas = {(each.split_point, each.codec): each.delta for each in found}
    assert {name for at, name in deltas if at == lost} == set(codec.usable(model.manifest, lost))
    spoilt = {at for (at, _), delta in deltas.items() if delta == NOT_CARRIED}
    assert lost in spoilt
    assert 0 not in spoilt
    manifest = model.manifest.model_copy(update={"codec_accuracy": found})
    alike = three(manifest, {tier: [1.0] * manifest.last for tier in Tier})
    cuts = {stage.segment.start for each in rank(alike, Policy(), 1, 10_000) for stage in each.plan.stages[1:]}
    assert cuts == set(range(manifest.last)) - spoilt


def test_bytes_are_the_mean_of_samples_sent_alone(
    model: Model, inputs: FloatArray, found: tuple[CodecAccuracy, ...]
) -> None:
    alone = [codec.get("int8+zstd").encode(row[None]).nbytes for row in inputs]
    (entry,) = (each for each in found if (each.split_point, each.codec) == (0, "int8+zstd"))
    assert entry.bytes_per_sample == round(float(np.mean(alone)), 1)
    assert mean_bytes(codec.get("fp32"), inputs) == 4 * inputs[0].size


def test_images_are_offered_for_the_input_of_networks_that_take_them(model: Model) -> None:
    shape = model.manifest.input.shape
    moments = (0.5,) * shape[0]
    spec = model.manifest.input.model_copy(update={"preprocessing": Preprocessing(mean=moments, std=moments)})
    taking = model.manifest.model_copy(update={"input": spec})
    plain = model.manifest.model_copy(update={"input": spec.model_copy(update={"preprocessing": None})})
    assert codec.usable(taking, 0) == (codec.NAMES if shape[0] in (1, 3) else codec.INTERIOR)
    wide = taking.model_copy(update={"input": taking.input.model_copy(update={"shape": (*shape[:2], 16384)})})
    assert not any("webp" in name for name in codec.usable(wide, 0))
    assert set(codec.usable(taking, 0)) - set(codec.usable(wide, 0)) <= {"pixels+webp", "webp80"}
    assert codec.usable(taking, 1) == codec.usable(plain, 0) == codec.INTERIOR


def test_a_calibration_keeps_the_bytes_known_of_other_split_points_and_nothing_else_of_them(model: Model) -> None:
    before = (
        CodecAccuracy(split_point=1, codec="int8", delta=-0.5, bytes_per_sample=1.0),
        CodecAccuracy(split_point=2, codec="int8", delta=-0.5, bytes_per_sample=2.0),
        CodecAccuracy(split_point=3, codec="int8", delta=-0.5),
    )
    measured = (CodecAccuracy(split_point=1, codec="int8", delta=0.0, bytes_per_sample=9.0),)
    found = with_bytes(measured, model.manifest.model_copy(update={"codec_accuracy": before}))
    assert found == (*measured, CodecAccuracy(split_point=2, codec="int8", bytes_per_sample=2.0))
