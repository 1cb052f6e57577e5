"""What the soak benchmark concludes from samples of memory, how it warms up, and what it may open."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from benchmarks import idle_connections, soak
from benchmarks.growth import drift
from testbed.chaos.history import Asked, Ending, Record
from testbed.chaos.traffic import OnEnd

MINUTES = np.linspace(0, 20, 2400)


def noise(seed: int) -> np.ndarray:
    """Bytes that wander: neighbouring samples say almost the same, as those of a process do."""
    steps = np.random.default_rng(seed).normal(0, 4096, len(MINUTES))
    wandering = np.zeros(len(MINUTES))
    for at in range(1, len(MINUTES)):
        wandering[at] = 0.95 * wandering[at - 1] + steps[at]
    return 100e6 + wandering


def spells(seed: int) -> np.ndarray:
    """Bytes that rise or fall for minutes on end, as where load comes and goes, and for no longer."""
    pushes = np.random.default_rng(seed).normal(0, 60, len(MINUTES))
    pace = np.zeros(len(MINUTES))
    for at in range(1, len(MINUTES)):
        pace[at] = 0.997 * pace[at - 1] + pushes[at]
    return 100e6 + pace.cumsum()


@pytest.mark.parametrize("seed", range(5))
def test_memory_that_only_wanders_is_flat(seed: int) -> None:
    found = drift(MINUTES.tolist(), noise(seed).tolist())
    assert found.low <= found.bytes_per_minute <= found.high
    assert found.flat


@pytest.mark.parametrize("leak", [100_000, 1_000_000])
def test_memory_that_grows_is_not_flat(leak: int) -> None:
    found = drift(MINUTES.tolist(), (noise(0) + leak * MINUTES).tolist())
    assert not found.flat
    assert found.low <= leak <= found.high


def test_spells_of_growth_seldom_pass_for_a_trend() -> None:
    found = [drift(MINUTES.tolist(), spells(seed).tolist()).flat for seed in range(100)]
    assert sum(found) >= 85


def test_growth_among_spells_is_seen() -> None:
    found = [drift(MINUTES.tolist(), (spells(seed) + 300_000 * MINUTES).tolist()).flat for seed in range(100)]
    assert sum(found) <= 5


def test_one_step_is_no_trend() -> None:
    step = np.where(MINUTES > 15, 600_000.0, 0.0)
    assert drift(MINUTES.tolist(), (noise(2) + step).tolist()).flat


def test_what_grows_only_while_warming_up_is_flat() -> None:
    warming = 5e6 * np.minimum(MINUTES, 5)
    assert drift(MINUTES.tolist(), (noise(1) + warming).tolist()).flat


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        drift([0.0, 1.0], [1.0, 1.0])


class Instant:
    """Traffic whose requests end at once, one in ten because its client hangs up; each run is kept."""

    runs: ClassVar[list[tuple[int, int, int]]]

    def __init__(self, mix: Any, clients: list[Any], seed: int, began: float, on_end: OnEnd):
        self._seed, self._on_end = seed, on_end

    async def run(self, callers: int, until: asyncio.Event) -> list[Any]:
        records: list[Any] = []
        while not until.is_set():
            records.append(SimpleNamespace(ending=Ending.ANSWERED if len(records) % 10 else Ending.CANCELLED))
            self._on_end(records[-1])
        self.runs.append((self._seed, callers, len(records)))
        return records


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> soak.Soak:
    monkeypatch.setattr(Instant, "runs", [], raising=False)
    monkeypatch.setattr(soak, "Traffic", Instant)
    nothing: Any = None
    return soak.Soak(nothing, nothing, [], seed=7)


async def test_a_soak_warms_up_by_requests_in_turns_that_differ(run: soak.Soak) -> None:
    found = await run.warm(12_000)
    callers = soak.WARM_CALLERS
    assert Instant.runs == [(8, callers, 5000), (9, callers, 5000), (10, callers, 2000)]
    assert (found["answered"], found["cancelled"], found["failed"]) == (10_800, 1200, 0)
    assert not run.counts.total()


async def test_a_soak_without_warm_up_sends_nothing_before_it(run: soak.Soak) -> None:
    assert (await run.warm(0))["answered"] == 0
    assert not Instant.runs


@pytest.mark.parametrize(("deadline", "strict"), [(1.0, 1), (10.0, 2)])
def test_what_had_little_time_in_a_stall_of_the_machine_is_excused(
    run: soak.Soak, deadline: float, strict: int
) -> None:
    asked = Asked("r", 0, 1, deadline, reaches_up=True)
    failed = [Record(asked, at, at + 1.0, Ending.FAILED, error="DEADLINE_EXCEEDED: late") for at in (3.0, 9.0)]
    run.bystander.stalls.append((3.5, 4.0))
    assert len(run.failed([*failed, replace(failed[0], ending=Ending.ANSWERED)])) == 2
    assert len(run.failed(failed, excused=False)) == strict


def test_no_more_connections_are_tried_than_there_are_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_connections.resource, "getrlimit", lambda kind: (4096, 4096))
    assert idle_connections.possible(10_000) == 4096 - 512
    assert idle_connections.possible(100) == 100
    monkeypatch.setattr(idle_connections.resource, "getrlimit", lambda kind: (256, 256))
    assert idle_connections.possible(10_000) == 0
