"""Dynamic Split Computing, computed: bottlenecks of the EfficientNets, and where which split is best.

Bakhtiarnia, Milosevic, Zhang, Bajovic and Iosifidis, Dynamic Split Computing for Efficient Deep Edge Intelligence,
ICASSP 2023: natural bottlenecks, and the end-to-end time of no offloading, full offloading and every split, over data
rate and batch size. Nothing but data and compute counts there: no round trip, no codec, no queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.families import FAMILIES
from training.families.architecture import Architecture

Array = npt.NDArray[np.float64]

BATCHES = tuple(range(1, 16))
PAPER_RATES = tuple(1e6 * rate for rate in range(1, 128))
"""Bytes per second, as in the paper's evaluation."""
WIDE_RATES = tuple(float(rate) for rate in np.geomspace(1e4, 127e6, 128))
"""From 80 kbit/s up, evenly in logarithm: where a split pays lies below 10 MB/s."""


@dataclass(frozen=True, slots=True)
class Bottlenecks:
    """How many block outputs of a network are natural and compressive; `ratios` is c = |z| / |x| of each block."""

    model: str
    input: int
    blocks: int
    natural: int
    compressive: int
    ratios: tuple[float, ...]


def efficientnets() -> list[Bottlenecks]:
    """All EfficientNets, V1 then V2, from their tables."""
    return [bottlenecks(found) for name, found in FAMILIES.items() if name.startswith("efficientnet")]


def bottlenecks(network: Architecture) -> Bottlenecks:
    """Natural: strictly fewer elements than the input. Compressive: fewer than after every earlier block, too."""
    ratios = ratios_of(network)
    natural = sum(ratio < 1 for ratio in ratios)
    return Bottlenecks(network.name, network.size, len(ratios), natural, len(compressive(ratios)), ratios)


def ratios_of(network: Architecture) -> tuple[float, ...]:
    """c = |z| / |x| at the output of each block."""
    whole = 3 * network.size**2
    return tuple(channels * height * width / whole for channels, height, width in network.block_shapes())


def compressive(ratios: Sequence[float]) -> list[int]:
    """Blocks, numbered from 1, with fewer elements than the input and than every earlier block."""
    found, smallest = [], 1.0
    for number, ratio in enumerate(ratios, 1):
        if ratio < smallest:
            found.append(number)
            smallest = ratio
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds on one machine by batch size 1, 2, 3 …: the whole network [B], heads and tails of the splits [K, B]."""

    model: str
    input_elements: int
    blocks: tuple[int, ...]
    ratios: tuple[float, ...]
    whole: Array
    heads: Array
    tails: Array

    @property
    def options(self) -> tuple[str, ...]:
        return ("device", "offload", *(f"block {number}" for number in self.blocks))


def end_to_end(measured: Measured, slowdown: float, rates: Sequence[float], element_bytes: float) -> Array:
    """Seconds [options, rates, batches]; rates in bytes per second.

    The device takes `slowdown` times as long as the machine measured, the server as long. T_device = t_device;
    T_offload = t_server + L_in / R with one byte per element, as pixels; T_k = head_device + tail_server + L_k / R.
    """
    batches = np.arange(1, measured.whole.size + 1)
    per_sample = measured.input_elements / np.asarray(rates)[:, None] * batches
    device = np.broadcast_to(slowdown * measured.whole, per_sample.shape)
    offload = measured.whole + per_sample
    compute = slowdown * measured.heads + measured.tails
    carried = element_bytes * np.asarray(measured.ratios)[:, None, None] * per_sample
    return np.concatenate([device[None], offload[None], compute[:, None, :] + carried])


def gains(times: Array) -> Array:
    """What the best option of each grid point saves against each static one, 0..1: (T_s - min T) / T_s."""
    return np.asarray((times - times.min(axis=0)) / times)


@dataclass(frozen=True, slots=True)
class Findings:
    """A grid, summed up. `gain`: mean over the grid of what dynamic splitting saves against each static option."""

    options: tuple[str, ...]
    optimal_share: tuple[float, ...]
    gain: tuple[float, ...]

    @property
    def splits_optimal_somewhere(self) -> int:
        return sum(share > 0 for share in self.optimal_share[2:])

    @property
    def split_share(self) -> float:
        """Share of the grid where a real split is best."""
        return sum(self.optimal_share[2:])

    @property
    def gain_over_splits(self) -> float:
        """Against one static split, averaged over the splits."""
        return float(np.mean(self.gain[2:]))


def findings(options: tuple[str, ...], times: Array) -> Findings:
    best = times.argmin(axis=0)
    shares = tuple(float((best == index).mean()) for index in range(len(options)))
    return Findings(options, shares, tuple(float(gain) for gain in gains(times).mean(axis=(1, 2))))
