"""Metrics: the table, what a request counts, and what is read live. No tiers run."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import bundle
from services.bundle import CalibrationSpec, CodecAccuracy, CurvePoint, Manifest
from services.domain import LinkEstimate, Plan, Segment, Stage, Tier
from services.errors import OfframpError, QueueFull
from services.limiter import Limiter
from services.metrics import calls, table, triton
from services.metrics.live import Live, Reading, of_door, of_link, of_upstream
from services.metrics.requests import MAX_PLANS, Metrics, Power, reasons
from services.metrics.triton import TritonNames
from services.observing import Refused
from tests.finished import finished, plan
from tests.scraping import of, total

BARE = re.compile(r"_(ms|us|milliseconds|microseconds|kb|mb|percent)(_|$)")


@pytest.fixture(scope="module")
def manifest(tiny: Path) -> Manifest:
    return bundle.load(tiny).manifest


def test_names_follow_the_convention_of_prometheus() -> None:
    for each in table.series():
        assert each.name.startswith("offramp_")
        assert (each.kind == "counter") == each.name.endswith("_total"), each.name
        assert not BARE.search(each.name), each.name
        assert not {"tier", "outcome", "direction", "version"} & set(each.name.split("_"))
        if each.unit in ("seconds", "bytes", "joules"):
            assert each.unit in each.name, each.name
        if each.unit == "ratio" and each.kind == "gauge":
            assert re.search(r"ratio|accuracy|slowdown|threshold", each.name), each.name
        assert each.sentence.endswith(".")
        assert len(each.labels) <= 4


def test_no_series_is_named_twice_and_every_histogram_has_buckets() -> None:
    every = [*table.series(), *calls.SERVER.series, *calls.CLIENT.series, *triton.TRITON.series]
    assert len({each.name for each in every}) == len(every)
    for each in every:
        assert (each.kind == "histogram") == bool(each.buckets)
        assert list(each.buckets) == sorted(set(each.buckets))


def test_label_values_known_beforehand_start_at_zero(manifest: Manifest) -> None:
    metrics = Metrics(Tier.DEVICE, "0")
    metrics.serve(manifest)
    page = of(metrics.registry)
    for spec in manifest.exits:
        assert total(page, "offramp_exits_total", tier="device", model="tiny", exit=spec.name) == 0
        assert total(page, "offramp_exit_confidence_count", exit=spec.name) == 0
    for stage in table.STAGES:
        assert total(page, "offramp_stage_seconds_total", stage=stage) == 0
    for outcome in ("ok", "degraded"):
        assert total(page, "offramp_requests_total", outcome=outcome) == 0
    for reason in reasons():
        assert total(page, "offramp_request_errors_total", reason=reason) == 0
    assert total(page, "offramp_degraded_total", reason="upstream_unavailable") == 0


def test_a_request_is_counted_once_in_each_respect(manifest: Manifest) -> None:
    metrics = Metrics(Tier.DEVICE, "0", Power(5.0, 1.0, 1e-6))
    metrics.answered(finished(manifest))
    page = of(metrics.registry)
    assert total(page, "offramp_requests_total", outcome="ok") == 1
    assert total(page, "offramp_samples_total") == total(page, "offramp_batch_size_sum") == 3
    assert total(page, "offramp_exits_total") == total(page, "offramp_exit_confidence_count") == 1
    assert total(page, "offramp_exits_total", exit="exit0") == 1
    assert total(page, "offramp_forwarded_samples_total") == 2
    assert total(page, "offramp_stage_seconds_total") == pytest.approx(0.015)
    assert total(page, "offramp_stage_seconds_total", stage="encode") == pytest.approx(0.004)
    assert total(page, "offramp_request_seconds_sum") == pytest.approx(0.035)
    assert total(page, "offramp_hop_seconds_sum") == pytest.approx(0.005)
    assert total(page, "offramp_hop_bytes_total", direction="up") == 1000
    assert total(page, "offramp_hop_bytes_total", direction="down") == 200
    assert total(page, "offramp_energy_joules_total") == pytest.approx(1.0 * 0.035 + 4.0 * 0.007 + 0.001)


def test_predicted_is_held_against_realised(manifest: Manifest) -> None:
    metrics = Metrics(Tier.DEVICE, "0")
    metrics.answered(finished(manifest))
    metrics.answered(finished(manifest, which=plan(3, 8, expected=None)))
    page = of(metrics.registry)
    assert total(page, "offramp_planned_requests_total") == 1
    assert total(page, "offramp_predicted_seconds_total") == pytest.approx(0.05)
    assert total(page, "offramp_realised_seconds_total") == pytest.approx(0.035)
    assert total(page, "offramp_prediction_ratio_sum") == pytest.approx(0.7)
    assert total(page, "offramp_plan_split", hop="device_edge") == 3
    assert total(page, "offramp_plan_split", hop="edge_cloud") == 8
    assert total(page, "offramp_split_decisions_total", split_1="2", split_2="4") == 1


@pytest.mark.parametrize(
    ("stages", "splits"),
    [
        (((Tier.DEVICE, 0, 8),), (8, 8)),
        (((Tier.DEVICE, 0, 3), (Tier.EDGE, 3, 8)), (3, 8)),
        (((Tier.DEVICE, 0, 3), (Tier.CLOUD, 3, 8)), (3, 3)),
        (((Tier.DEVICE, 0, 0), (Tier.EDGE, 0, 5), (Tier.CLOUD, 5, 8)), (0, 5)),
    ],
)
def test_a_tier_that_a_plan_leaves_out_is_left_where_it_is_entered(
    manifest: Manifest, stages: tuple[tuple[Tier, int, int], ...], splits: tuple[int, int]
) -> None:
    metrics = Metrics(Tier.DEVICE, "0")
    which = Plan(tuple(Stage(tier, Segment(start, end)) for tier, start, end in stages))
    metrics.answered(finished(manifest, which=which))
    page = of(metrics.registry)
    shown = total(page, "offramp_plan_split", hop="device_edge"), total(page, "offramp_plan_split", hop="edge_cloud")
    assert shown == splits


def test_degraded_samples_count_where_they_were_answered(manifest: Manifest) -> None:
    metrics = Metrics(Tier.DEVICE, "0")
    metrics.answered(finished(manifest, tiers=(0, 0, 1), reasons=(0, 2, 1)))
    page = of(metrics.registry)
    assert total(page, "offramp_degraded_total") == 1
    assert total(page, "offramp_degraded_total", reason="upstream_unavailable") == 1
    assert total(page, "offramp_requests_total", outcome="degraded") == 1
    assert total(page, "offramp_requests_total", outcome="ok") == 0


def test_confidences_fall_into_the_buckets_that_prometheus_would_put_them_in(manifest: Manifest) -> None:
    metrics = Metrics(Tier.DEVICE, "0")
    given_ones = finished(manifest, tiers=(0,) * 4, exits=(0, 0, 1, 2), reasons=(0,) * 4)
    given_ones.response.predictions.confidences[:] = (0.05, 0.25, 0.3001, 1.0)
    metrics.answered(given_ones)
    page = of(metrics.registry)

    def up_to(bound: str, name: str) -> float:
        return total(page, "offramp_exit_confidence_bucket", le=bound, exit=name)

    assert [up_to(bound, "exit0") for bound in ("0.1", "0.2", "0.3", "+Inf")] == [1, 1, 2, 2]
    assert [up_to(bound, "exit1") for bound in ("0.3", "0.4", "+Inf")] == [0, 1, 1]
    assert [up_to(bound, "exit2") for bound in ("0.9", "1.0", "+Inf")] == [0, 1, 1]
    assert total(page, "offramp_exit_confidence_sum", exit="exit0") == pytest.approx(0.3)


def test_versions_of_a_model_share_their_series(manifest: Manifest) -> None:
    metrics = Metrics(Tier.DEVICE, "0")
    for version in ("1", "2"):
        metrics.answered(finished(manifest.model_copy(update={"version": version})))
    page = of(metrics.registry)
    assert total(page, "offramp_requests_total") == 2
    assert total(page, "offramp_exit_confidence_count", exit="exit0") == 2
    assert total(page, "offramp_model_info") == 2


def test_an_error_is_counted_by_its_reason_and_an_unknown_one_as_internal() -> None:
    metrics = Metrics(Tier.EDGE, "0")
    metrics.refused(Refused("r", "INVALID_INPUT", "bad"))
    metrics.refused(Refused("r", "no such reason", "bad"))
    page = of(metrics.registry)
    assert total(page, "offramp_request_errors_total", tier="edge", reason="INVALID_INPUT") == 1
    assert total(page, "offramp_request_errors_total", reason="INTERNAL") == 1
    assert total(page, "offramp_request_errors_total") == 2


def test_only_the_device_has_series_of_plans_and_energy(manifest: Manifest) -> None:
    metrics = Metrics(Tier.EDGE, "0")
    metrics.serve(manifest)
    names = {name for name, _ in of(metrics.registry)}
    assert not any(name in names for name in table.DEVICE_ONLY)


def test_the_manifest_tells_input_sizes_and_what_calibration_promises(manifest: Manifest) -> None:
    curve = (CurvePoint(threshold=0.5, exit_rate=0.2), CurvePoint(threshold=0.7, exit_rate=0.4))
    exits = tuple(spec.model_copy(update={"curve": curve, "threshold": 0.6}) for spec in manifest.exits)
    promised = CalibrationSpec(
        samples=10, epsilon=0.01, delta=0.05, full_accuracy=0.9, accuracy=0.89, harmful_upper_bound=0.01
    )
    measured = CodecAccuracy(split_point=0, codec="jpeg75", bytes_per_sample=33.5)
    metrics = Metrics(Tier.DEVICE, "0")
    metrics.serve(manifest.model_copy(update={"exits": exits, "calibration": promised, "codec_accuracy": (measured,)}))
    page = of(metrics.registry)
    sizes = {form: total(page, "offramp_input_bytes", form=form) for form in ("fp32", "pixels", "jpeg75")}
    assert sizes == {"fp32": 256, "pixels": 64, "jpeg75": 33.5}
    shares = [total(page, "offramp_expected_exit_ratio", exit=f"exit{i}") for i in range(3)]
    assert shares == pytest.approx([0.3, 0.21, 0.49])
    assert total(page, "offramp_calibrated_accuracy") == 0.89
    assert total(page, "offramp_contract_accuracy_loss") == 0.01


@settings(max_examples=30, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.text(max_size=30), st.integers(0, 8), st.integers(0, 8), st.text(max_size=30)), max_size=40
    )
)
def test_ids_models_and_plans_of_callers_make_no_series(
    manifest: Manifest, asked: list[tuple[str, int, int, str]]
) -> None:
    metrics, names = Metrics(Tier.DEVICE, "0"), TritonNames()
    metrics.registry.register(names)
    metrics.serve(manifest)
    names.serve(manifest, lambda: 0)
    before, plans = len(of(metrics.registry)), set()
    for name, first, second, model in asked:
        splits = min(first, second), max(first, second)
        plans.add(splits)
        metrics.answered(finished(manifest, request_id=name, which=plan(*splits)))
        metrics.refused(Refused(name, "INVALID_INPUT", name, model))
        names.refused(Refused(name, "INVALID_INPUT", name, model))
    assert len(of(metrics.registry)) == before + len(plans)


def test_plans_beyond_a_limit_share_one_series(manifest: Manifest) -> None:
    metrics = Metrics(Tier.DEVICE, "0")
    for first in range(MAX_PLANS + 50):
        metrics.answered(finished(manifest, which=plan(first, first)))
    page = of(metrics.registry)
    assert sum(name == "offramp_split_decisions_total" for name, _ in page) == MAX_PLANS + 1
    assert total(page, "offramp_split_decisions_total", split_1="other") == 50
    assert total(page, "offramp_split_decisions_total") == MAX_PLANS + 50


def test_what_is_unknown_of_a_link_is_absent_and_said_to_be() -> None:
    link = [LinkEstimate(Tier.EDGE)]
    metrics = Metrics(Tier.EDGE, "0")
    metrics.live.add(of_link(Tier.EDGE, lambda: link[0]))
    page = of(metrics.registry)
    assert total(page, "offramp_link_known", tier="edge") == 0
    assert not any(name in ("offramp_link_rtt_seconds", "offramp_link_rate_bytes_per_second") for name, _ in page)
    link[0] = LinkEstimate(Tier.EDGE, 0.01, 1e6, 0.1, 0.5)
    page = of(metrics.registry)
    assert total(page, "offramp_link_known") == 1
    assert total(page, "offramp_link_rtt_seconds") == 0.01
    assert total(page, "offramp_link_rate_bytes_per_second") == 1e6
    assert total(page, "offramp_link_age_seconds") == 0.5


def test_who_is_turned_away_at_the_door_is_counted_there() -> None:
    whole = Limiter(8)
    part = Limiter(1, whole=whole)
    metrics = Metrics(Tier.EDGE, "0")
    metrics.live.add(of_door(Tier.EDGE, whole, lambda: 3))
    with part.admit():
        with pytest.raises(QueueFull), part.admit():
            pass
        whole.draining = True
        with pytest.raises(OfframpError), part.admit():
            pass
        page = of(metrics.registry)
    assert total(page, "offramp_rejected_total", reason="QUEUE_FULL") == 1
    assert total(page, "offramp_rejected_total", reason="DRAINING") == 1
    assert total(page, "offramp_rejected_total", reason="MODEL_NOT_READY") == 0
    assert total(page, "offramp_in_flight") == 1
    assert total(page, "offramp_queue_length") == 3


def test_a_reader_that_fails_takes_no_other_series_with_it() -> None:
    live = Live()
    live.add(of_upstream(Tier.EDGE, lambda: [("there:1", 1 // 0)]))
    live.add(of_upstream(Tier.EDGE, lambda: [("here:1", 2)]))
    (family,) = live.collect()
    assert [(s.labels["upstream"], s.value) for s in family.samples] == [("here:1", 2)]


async def test_readers_run_on_the_event_loop_though_prometheus_asks_from_elsewhere() -> None:
    live = Live(asyncio.get_running_loop())
    seen: list[object] = []

    def read() -> Iterator[Reading]:
        seen.append(asyncio.get_running_loop())
        yield Reading("offramp_in_flight", ("edge",), 1)

    live.add(read)
    assert len(await asyncio.to_thread(lambda: list(live.collect()))) == 1
    assert len(list(live.collect())) == 1
    assert seen == [live.loop, live.loop]
