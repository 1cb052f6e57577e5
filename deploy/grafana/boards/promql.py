"""The few shapes that the boards' queries have. Every rate is over `$__rate_interval`, which Grafana chooses."""

from __future__ import annotations

HERE = 'tier=~"$tier", model=~"$model"'
DOOR = 'tier="device", model=~"$model"'
"""What the device saw: each request once, from its arrival to its answer."""
MODEL = 'model=~"$model"'
TIER = 'tier=~"$tier"'
JOB = 'job=~"$tier"'
"""For series of the process, which know no tier; Prometheus names the job after it."""


def rate(metric: str, labels: str, by: str = "") -> str:
    """Per second, summed over everything but `by`."""
    return f"sum{_by(by)} (rate({metric}{{{labels}}}[$__rate_interval]))"


def total(metric: str, labels: str, by: str = "") -> str:
    """How much was added over the time the board shows."""
    return f"sum{_by(by)} (increase({metric}{{{labels}}}[$__range]))"


def ratio(part: str, whole: str) -> str:
    """One over the other, and nothing while there is no `whole`."""
    return f"{part} / ({whole} > 0)"


def portions(parts: str, whole: str, on: str = "") -> str:
    """Each of `parts` over the one `whole`, which has only the labels `on`."""
    return f"{parts} / on ({on}) group_left () ({whole} > 0)"


def mean(histogram: str, labels: str, by: str = "") -> str:
    return ratio(rate(f"{histogram}_sum", labels, by), rate(f"{histogram}_count", labels, by))


def quantile(share: float, histogram: str, labels: str, by: str = "") -> str:
    """The value that `share` of the observations do not exceed, as well as the buckets tell."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', labels, ', '.join(filter(None, (by, 'le'))))})"


def latest(metric: str, labels: str, by: str) -> str:
    """A gauge that several processes may export with the same value."""
    return f"max{_by(by)} ({metric}{{{labels}}})"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
