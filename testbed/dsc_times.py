"""Seconds of a network's heads and tails on this machine, whole and warm, for the maps of Dynamic Split Computing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from services.bundle import Bundle
from services.domain import Clock, FloatArray, Segment
from services.model import Model
from testbed import scenes
from testbed.adopt import in_memory, network_graph
from testbed.dsc import BATCHES, Array, Measured, compressive, ratios_of
from training.families import architecture

REPEATS = {1: 4, 4: 2, 15: 1}
"""Runs in a round by batch size: what is short is run more often, since it is disturbed more easily."""
MEASURED_BATCHES = tuple(REPEATS)
_MIN_ROUNDS, _MAX_ROUNDS = 3, 25

Key = tuple[Segment, int]
Tick = Callable[[float], None]
"""Called now and then with the share of the work that is done."""


@dataclass(slots=True)
class Stopwatch:
    """Rounds over all segments and batch sizes, so that a slow minute of the machine hits all alike."""

    model: Model
    inputs: FloatArray
    seconds: float
    clock: Clock = time.perf_counter
    taken: dict[Key, list[float]] = field(default_factory=dict)

    def measure(self, segments: list[Segment], tick: Tick) -> None:
        """At least 3 rounds, then as many as fit into `seconds`; the first run of a segment is not counted."""
        keys = [(segment, batch) for segment in segments for batch in MEASURED_BATCHES]
        entering = {start: self._entering(start) for start in {segment.start for segment in segments}}
        for key in keys:
            self._run(key, entering)
        began = self.clock()
        for number in range(_MAX_ROUNDS):
            spent = self.clock() - began
            if number >= _MIN_ROUNDS and spent * (number + 1) / number > self.seconds:
                break
            for index, key in enumerate(keys):
                self.taken.setdefault(key, []).extend(self._run(key, entering) for _ in range(REPEATS[key[1]]))
                done = (self.clock() - began) / self.seconds
                tick(min(max(done, (number * len(keys) + index) / (len(keys) * _MAX_ROUNDS)), 1.0))

    def median(self, segment: Segment) -> Array:
        """Seconds by batch size 1..15, interpolated between those measured."""
        known = [float(np.median(self.taken[segment, batch])) for batch in MEASURED_BATCHES]
        return np.asarray(np.interp(BATCHES, MEASURED_BATCHES, known))

    def spread(self, segment: Segment) -> float:
        """Half the range between the quartiles over the median, at batch size 1."""
        low, middle, high = np.percentile(self.taken[segment, 1], (25, 50, 75))
        return float((high - low) / 2 / middle)

    def _entering(self, start: int) -> FloatArray:
        """What enters a segment: real activations, since zeros would be faster or slower than what comes."""
        return self.inputs if start == 0 else self.model.run(Segment(0, start), self.inputs)[0]

    def _run(self, key: Key, entering: dict[int, FloatArray]) -> float:
        segment, batch = key
        tensor = entering[segment.start][:batch]
        started = self.clock()
        self.model.run(segment, tensor)
        return self.clock() - started


def measure(name: str, seconds: float, tick: Tick) -> tuple[Measured, Stopwatch]:
    """Times the whole network `name` and its split at every compressive block output, about `seconds` long.

    Splits elsewhere send as much or more after more work on the slower machine: none of them is ever best.
    """
    graph, preprocessing = network_graph(name)
    loaded = in_memory(name, graph, preprocessing)
    found = architecture(name)
    ratios = ratios_of(found)
    blocks = compressive(ratios)
    cuts = [_after_block(loaded, number) for number in blocks]
    whole = Segment(0, loaded.manifest.last)
    heads, tails = [Segment(0, cut) for cut in cuts], [Segment(cut, whole.end) for cut in cuts]
    inputs, _ = scenes.inputs(loaded.manifest.input, None, max(MEASURED_BATCHES))
    watch = Stopwatch(Model(loaded), inputs, seconds)
    watch.measure([whole, *heads, *tails], tick)
    measured = Measured(
        model=name,
        input_elements=loaded.manifest.split_points[0].elements,
        blocks=tuple(blocks),
        ratios=tuple(ratios[number - 1] for number in blocks),
        whole=watch.median(whole),
        heads=np.stack([watch.median(head) for head in heads]),
        tails=np.stack([watch.median(tail) for tail in tails]),
    )
    return measured, watch


def _after_block(loaded: Bundle, number: int) -> int:
    """The split point at the output of a block, numbered from 1: the last one made inside it."""
    return max(_made_in(loaded, f"/blocks.{number - 1}/"))


def _made_in(loaded: Bundle, scope: str) -> Iterator[int]:
    return (point.index for point in loaded.manifest.split_points if point.after.startswith(scope))
