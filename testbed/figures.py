"""Two of the pictures of a run: what the threshold trades, and what one hard sample looks like on its way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from services import codec, exits
from services.bundle import ExitSpec
from services.domain import FloatArray, Segment, Tier
from services.model import Model

_COLOURS = ("#2a9d8f", "#e9c46a", "#e76f51")
_INK, _GREY = "#264653", "#8d99a6"
_ZOOM, _GAP = 12, 4
_THRESHOLDS = np.concatenate([np.linspace(0, 0.9, 46), 1 - np.geomspace(0.1, 1e-5, 60)])


def exits_figure(
    confidences: list[FloatArray], right: npt.NDArray[np.bool_], shipped: Sequence[ExitSpec], title: str, path: Path
) -> None:
    """Accuracy against one confidence threshold for all exits, over the share each exit answers.

    `confidences`: one float32 [N] per exit; `right`: bool [exits, N]; `shipped`: the bundle's own, with
    their thresholds.
    """
    answered = np.stack([_answering(confidences, [threshold] * len(right)) for threshold in _THRESHOLDS])
    accuracy = [right[exit_of, np.arange(len(exit_of))].mean() for exit_of in answered]
    shares = [[(exit_of == e).mean() for exit_of in answered] for e in range(len(right))]
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    x = np.arange(len(_THRESHOLDS))
    top.plot(x, 100 * np.array(accuracy), color=_INK, linewidth=2, label="with exits")
    top.axhline(100 * right[-1].mean(), color=_GREY, linestyle="--", label="whole network, no exits")
    names = [f"{each.name} exit" for each in shipped]
    bottom.stackplot(x, 100 * np.array(shares), labels=names, colors=_colours(len(right)))
    _mark_shipped(top, confidences, right, shipped)
    top.set(ylabel="accuracy, %", title=title)
    ticks = [np.abs(_THRESHOLDS - t).argmin() for t in (0, 0.3, 0.6, 0.9, 0.99, 0.999, 0.9999)]
    bottom.set(
        ylabel="answered by, %", xlabel="confidence threshold of every exit (log scale above 0.9)", ylim=(0, 100)
    )
    bottom.set_xticks(ticks, ["0", "0.3", "0.6", "0.9", "0.99", "0.999", "0.9999"])
    top.legend(loc="lower right", framealpha=1, edgecolor="white")
    bottom.legend(loc="lower left", framealpha=0.9)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    figure.savefig(path, dpi=150)


def journey_figure(
    model: Model, sample: FloatArray, image: npt.NDArray[np.uint8], cuts: list[tuple[int, str]], title: str, path: Path
) -> None:
    """One sample, float32 [1, …], as pixels: the input, then what arrives behind each cut (split point, codec)."""
    panels: list[tuple[npt.NDArray[Any], str]] = [(image.squeeze(), f"input\n{image.nbytes:,} bytes, uint8 pixels")]
    activation, at = sample, 0
    for name, (split_point, codec_name) in zip((tier.label for tier in Tier), cuts, strict=False):
        for piece in model.pieces(Segment(at, split_point)):
            activation, _ = model.run(piece, activation)
        chosen = codec.at(codec_name, split_point, model.manifest.input.preprocessing)
        payload = chosen.encode(activation)
        activation = chosen.decode(payload)
        shape = "×".join(map(str, activation.shape[1:]))
        panels.append((_tiled(activation[0]), f"leaves the {name}: {shape}\n{payload.nbytes:,} bytes, {codec_name}"))
        at = split_point
    figure = Figure(figsize=(4 * len(panels), 5), layout="constrained")
    for axes, (pixels, caption) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.imshow(pixels, cmap="viridis" if pixels.dtype != np.uint8 else "gray", interpolation="nearest")
        axes.set_title(caption, fontsize=11)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    figure.suptitle(title + "\n", fontsize=13)
    figure.savefig(path, dpi=150)


def _answering(confidences: list[FloatArray], thresholds: Sequence[float]) -> npt.NDArray[np.int64]:
    """The first exit that is sure enough for each sample; the last one where none is."""
    chosen = np.full(len(confidences[0]), len(confidences) - 1)
    for index in reversed(range(len(confidences) - 1)):
        chosen[exits.leaves(confidences[index], thresholds[index])] = index
    return chosen


def _mark_shipped(
    axes: Axes, confidences: list[FloatArray], right: npt.NDArray[np.bool_], shipped: Sequence[ExitSpec]
) -> None:
    """A line at each shipped threshold, and the accuracy they give together, which no single threshold is."""
    thresholds, colours = [each.threshold for each in shipped], _colours(len(shipped))
    answered = _answering(confidences, thresholds)
    together = 100 * right[answered, np.arange(len(answered))].mean()
    at = float(np.interp(thresholds[0], _THRESHOLDS, np.arange(len(_THRESHOLDS))))
    axes.plot(at, together, "o", color=colours[-1], zorder=3, label=f"shipped thresholds together, {together:.2f} %")
    for each, colour in zip(shipped[:-1], colours, strict=False):
        at = np.interp(each.threshold, _THRESHOLDS, np.arange(len(_THRESHOLDS)))
        label = f"shipped threshold of the {each.name} exit, {each.threshold:.4g}"
        axes.axvline(float(at), color=colour, linestyle=":", linewidth=2, label=label)


def _colours(count: int) -> list[str]:
    """One for each exit, the last one's always the same; with more exits than colours they come round."""
    return [*(_COLOURS[index % (len(_COLOURS) - 1)] for index in range(count - 1)), _COLOURS[-1]]


def _tiled(activation: FloatArray) -> FloatArray:
    """Channels [C, H, W] side by side in a near-square grid, each on its own range, with gaps; else one row."""
    if activation.ndim != 3:
        return activation.reshape(1, -1)
    channels = len(activation)
    columns = math.ceil(math.sqrt(channels))
    planes = [np.kron(_stretched(plane), np.ones((_ZOOM, _ZOOM), np.float32)) for plane in activation]
    height, width = planes[0].shape
    rows = math.ceil(channels / columns)
    grid = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP), np.nan, np.float32)
    for index, plane in enumerate(planes):
        y, x = (index // columns) * (height + _GAP), (index % columns) * (width + _GAP)
        grid[y : y + height, x : x + width] = plane
    return grid


def _stretched(plane: FloatArray) -> FloatArray:
    spread = float(np.ptp(plane))
    return (plane - plane.min()) / np.float32(spread) if spread else np.zeros_like(plane)
