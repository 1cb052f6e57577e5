"""How benchmarks of single calls take turns."""

from __future__ import annotations

from itertools import groupby

from benchmarks.hop import SETTLING_CALLS, TURN_CALLS, Timed, alternate


async def test_kinds_of_calls_take_turns_and_only_settled_calls_count() -> None:
    made: list[str] = []

    def kind(name: str) -> Timed:
        async def call() -> float:
            made.append(name)
            return 0.0

        return call

    found = await alternate({"a": kind("a"), "b": kind("b")}, TURN_CALLS + 1)
    turns = [(name, len(list(calls))) for name, calls in groupby(made)]
    assert turns == [(name, SETTLING_CALLS + TURN_CALLS) for _ in range(3) for name in ("a", "b")]
    assert {name: len(times) for name, times in found.items()} == {"a": 2 * TURN_CALLS, "b": 2 * TURN_CALLS}


async def test_compute_is_taken_off() -> None:
    async def call() -> float:
        return 1.0

    assert all(time < 0 for time in (await alternate({"a": call}, 1))["a"])
