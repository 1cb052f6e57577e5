"""Requests by Triton's names; and what it costs to count one by all names."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services import bundle
from services.bundle import Manifest
from services.domain import Tier
from services.metrics.requests import Metrics
from services.metrics.triton import TritonNames
from services.observing import Finished, Refused
from tests.finished import finished
from tests.scraping import of, total


@pytest.fixture(scope="module")
def manifest(tiny: Path) -> Manifest:
    return bundle.load(tiny).manifest


@pytest.mark.parametrize("order", [("9", "10"), ("10", "9")])
def test_what_names_no_version_counts_for_the_newest_whichever_was_served_last(
    manifest: Manifest, order: tuple[str, ...]
) -> None:
    registry, names = CollectorRegistry(), TritonNames()
    registry.register(names)
    for version in order:
        names.serve(manifest.model_copy(update={"version": version, "model_hash": version}), lambda: 0)
    names.refused(Refused("r", "QUEUE_FULL", "full", manifest.name))
    failed = {v: total(of(registry), "nv_inference_request_failure", version=v) for v in order}
    assert failed == {"9": 0, "10": 1}


def test_triton_names_are_bare_and_add_up(manifest: Manifest) -> None:
    metrics, names = Metrics(Tier.DEVICE, "0"), TritonNames()
    metrics.registry.register(names)
    names.serve(manifest, lambda: 2)
    for _ in range(3):
        names.answered(finished(manifest))
    names.refused(Refused("r", "QUEUE_FULL", "", "tiny"))
    names.refused(Refused("r", "INTERNAL", "", manifest.model_hash))
    names.refused(Refused("r", "INVALID_INPUT", "", "another"))
    names.refused(Refused("r", "INVALID_INPUT", "", manifest.name, "99"))
    page = of(metrics.registry)
    model = {"model": "tiny", "version": "1"}
    assert total(page, "nv_inference_request_success", **model) == 3
    assert total(page, "nv_inference_count", **model) == 9
    assert total(page, "nv_inference_exec_count", **model) == 3
    assert total(page, "nv_inference_pending_request_count", **model) == 2
    assert total(page, "nv_inference_request_duration_us", **model) == pytest.approx(105_000)
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    spent = sum(total(page, f"nv_inference_{part}_duration_us", **model) for part in parts)
    assert spent == pytest.approx(105_000)
    assert total(page, "nv_inference_request_failure", reason="REJECTED", **model) == 1
    assert total(page, "nv_inference_request_failure", reason="BACKEND", **model) == 1
    assert total(page, "nv_inference_request_failure", **model) == 2


def test_counting_a_request_costs_little(manifest: Manifest) -> None:
    metrics, names, one = Metrics(Tier.DEVICE, "0"), TritonNames(), finished(manifest)
    names.serve(manifest, lambda: 0)
    best = min(_seconds_of(metrics, names, one) for _ in range(20))
    assert best < 500e-6


def _seconds_of(metrics: Metrics, names: TritonNames, one: Finished, times: int = 20) -> float:
    started = time.perf_counter()
    for _ in range(times):
        metrics.answered(one._replace())
        names.answered(one)
    return (time.perf_counter() - started) / times
