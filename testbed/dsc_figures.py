"""The maps of Dynamic Split Computing: the best option, and what choosing saves, over data rate and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from testbed.dsc import BATCHES, Array, gains
from testbed.scales import plain_numbers

_COLOURS = ("#8d99a6", "#264653", "#2a9d8f", "#8ab17d", "#e9c46a", "#f4a261", "#e76f51")


def regime_map(times: dict[str, Array], options: Sequence[str], rates: Sequence[float], title: str, path: Path) -> None:
    """The best option at each point, one panel for each of `times`: seconds [options, rates, batches]."""
    figure = Figure(figsize=(5.2 * len(times) + 1.6, 4.2), layout="constrained")
    panels = figure.subplots(1, len(times), squeeze=False)[0]
    colours = ListedColormap([_COLOURS[index % len(_COLOURS)] for index in range(len(options))])
    norm = BoundaryNorm(np.arange(len(options) + 1) - 0.5, len(options))
    for axes, (name, values) in zip(panels, times.items(), strict=True):
        axes.pcolormesh(_megabytes(rates), BATCHES, values.argmin(axis=0).T, cmap=colours, norm=norm, shading="nearest")
        _label(axes, name)
    legend = [Patch(color=colours(index), label=name) for index, name in enumerate(options)]
    figure.legend(handles=legend, loc="outside right upper", title="best option")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def gain_maps(times: Array, options: Sequence[str], rates: Sequence[float], title: str, path: Path) -> None:
    """What the best option saves against each static one, in percent of that one's time."""
    columns = 3
    rows = -(-len(options) // columns)
    figure = Figure(figsize=(4.4 * columns + 0.8, 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    saved = 100 * gains(times)
    for axes, name, values in zip(panels, options, saved, strict=False):
        mesh = axes.pcolormesh(
            _megabytes(rates), BATCHES, values.T, cmap="viridis", vmin=0, vmax=100, shading="nearest"
        )
        _label(axes, f"over always {name}: mean {values.mean():.1f} %")
    for axes in panels[len(options) :]:
        axes.set_visible(False)
    figure.colorbar(mesh, ax=panels.tolist(), label="time saved, %")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _megabytes(rates: Sequence[float]) -> Array:
    return np.asarray(rates) / 1e6


def _label(axes: Axes, title: str) -> None:
    axes.set(xscale="log", xlabel="data rate, MB/s", ylabel="batch size", title=title)
    plain_numbers(axes.xaxis)
