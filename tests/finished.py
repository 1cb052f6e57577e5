"""Requests that ended, as observers hear of them."""

from __future__ import annotations

import time

import numpy as np

from services.bundle import Manifest
from services.domain import Plan, Segment, Stage, Tier
from services.observing import Finished
from services.response import HopTrace, Predictions, Response, Trace
from tests.networks import CLASSES


def plan(first: int = 2, second: int = 4, expected: float | None = 0.05) -> Plan:
    stages = (Segment(0, first), Segment(first, second), Segment(second, 8))
    return Plan(tuple(Stage(tier, part) for tier, part in zip(Tier, stages, strict=True)), expected)


def finished(
    manifest: Manifest,
    tiers: tuple[int, ...] = (0, 1, 2),
    exits: tuple[int, ...] = (0, 1, 2),
    reasons: tuple[int, ...] = (0, 0, 0),
    request_id: str = "r",
    which: Plan | None = None,
) -> Finished:
    answers = Predictions.empty(len(tiers), CLASSES)
    answers.tiers[:], answers.exits[:], answers.reasons[:] = tiers, exits, reasons
    answers.confidences[:] = np.linspace(0.35, 0.95, len(tiers))
    device = HopTrace(Tier.DEVICE, 0.001, 0.002, 0.003, 0.004, 0.005, bytes_up=1000, bytes_down=200)
    hops = (device, HopTrace(Tier.EDGE, compute_seconds=0.02))
    return Finished(request_id, Tier.DEVICE, manifest, which or plan(), Response(answers, Trace(hops)), time.time_ns())
