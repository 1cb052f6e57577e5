"""The world that a policy meets: links, machines, and how requests arrive; real or virtual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from services.domain import Tier
from services.patience import PATIENCE
from testbed.traces import ConstantRate, Rate, parse_rate

Floats = npt.NDArray[np.float64]


class Loop(StrEnum):
    """How requests arrive: each after the answer to the one before, or at random times (Poisson)."""

    CLOSED = "closed"
    OPEN = "open"


@dataclass(slots=True)
class Line:
    """One direction of a link, as `testbed.pacer` has it: bytes leave one after the other, then travel."""

    rate: Rate
    delay_seconds: float
    free: float = 0.0

    def send(self, now: float, nbytes: float) -> float:
        """When the last of `nbytes` arrives."""
        self.free = self.rate.finish(max(now, self.free), nbytes)
        return self.free + self.delay_seconds


@dataclass(frozen=True, slots=True)
class World:
    """All but the trace of the uplink from device to edge. Round trips in seconds, rates in bytes per second.

    call_seconds: what a call costs besides the link, on one hop. agent_seconds: what a request costs on the device
    besides its segments. header_bytes, reply_bytes: what a call moves besides its payload, up and down.
    limit_seconds: when a caller gives up. patience: after how many times the expected seconds the device runs the
    rest itself; 0: never.
    """

    near_rtt_seconds: float = 0.010
    near_down: float = parse_rate("50mbit")
    far_rate: float = parse_rate("50mbit")
    far_rtt_seconds: float = 0.040
    device_slowdown: float = 8.0
    edge_slowdown: float = 2.0
    cloud_slowdown: float = 1.0
    call_seconds: float = 0.0015
    agent_seconds: float = 0.0003
    header_bytes: int = 250
    reply_bytes: int = 600
    limit_seconds: float = 10.0
    patience: float = PATIENCE

    @property
    def slowdowns(self) -> Mapping[Tier, float]:
        return {Tier.DEVICE: self.device_slowdown, Tier.EDGE: self.edge_slowdown, Tier.CLOUD: self.cloud_slowdown}

    def far_line(self) -> Line:
        """The way up from edge to cloud, idle."""
        return Line(ConstantRate(self.far_rate), self.far_rtt_seconds / 2)

    @property
    def near_fixed_seconds(self) -> float:
        """What a call from device to edge takes besides its bytes up."""
        return self.near_rtt_seconds + self.reply_bytes / self.near_down + self.call_seconds

    @property
    def far_fixed_seconds(self) -> float:
        """What a call from edge to cloud takes besides its payload."""
        moved = self.header_bytes + self.reply_bytes
        return self.far_rtt_seconds + moved / self.far_rate + self.call_seconds


class FastRate:
    """`Rate.finish` for many at once."""

    def __init__(self, rate: Rate):
        self._edges = np.array([0.0, 1.0] if isinstance(rate, ConstantRate) else rate.edges)
        self._levels = np.array([0.0, rate.bytes_per_second] if isinstance(rate, ConstantRate) else rate.levels)

    def finish(self, starts: Floats, nbytes: Floats) -> Floats:
        """When the last of nbytes [N] has been serialised if the first starts at `starts` [N]."""
        loops, offsets = np.divmod(starts, self._edges[-1])
        levels = np.interp(offsets, self._edges, self._levels)
        more, rest = np.divmod(levels + nbytes, self._levels[-1])
        index = np.clip(np.searchsorted(self._levels, rest), 1, len(self._levels) - 1)
        below, above = self._levels[index - 1], self._levels[index]
        share = (rest - below) / np.where(above > below, above - below, 1)
        within = self._edges[index - 1] + share * (self._edges[index] - self._edges[index - 1])
        return np.where(nbytes > 0, np.maximum(starts, (loops + more) * self._edges[-1] + within), starts)
