"""Codecs on the real activations of every bundle in models/: the Pareto front of bytes, time and accuracy.

Run: ``python -m benchmarks.codecs [--json FILE] [--plot FILE] [--data DIR]``. The input as JPEG, PNG and WebP of
several qualities is the rival. Accuracy is that of the whole network behind the codec, on held-out samples. Exit
code 1 where on one of them no activation needs fewer bytes than JPEG of the input at equal accuracy.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.codec_rows import Row, rows
from benchmarks.codec_verdict import beaten_by_jpeg, fronts, inner, said, verdict, whole
from services.bundle import Bundle, load
from services.errors import InvalidInput
from services.model import Model
from testbed.samples import held_out
from training.evaluate import preprocess

ROOT = Path(__file__).resolve().parent.parent
_HEADS = ("split point", "codec", "bytes", "encode µs", "decode µs", "accuracy", "time before")
_COLOURS = {"int8": "#264653", "int4": "#2a9d8f", "int3": "#8ab17d", "int2": "#e9c46a"}
_IMAGE_COLOURS = {"jpeg": "#e76f51", "webp": "#9b5de5"}
_LOSSLESS = ("png", "pixels", "pixels+zstd", "pixels+webp")


def main() -> int:
    """Prints every front and verdict; 1 where on a bundle no activation needs fewer bytes than JPEG of the input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows and verdicts here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the picture here; none: beside the JSON")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of data sets")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of bundles")
    parser.add_argument("--samples", type=int, default=2000, help="most samples per bundle")
    args = parser.parse_args()
    console, found = Console(soft_wrap=True), dict[str, list[Row]]()
    for path in sorted(each.parent for each in args.models.glob("*/manifest.json")):
        try:
            found[path.name] = measured(load(path), args.data, args.samples)
        except InvalidInput as error:
            console.print(f"{path.name}: left out: {error}")
            continue
        console.print(table(path.name, found[path.name]))
        console.print(said(path.name, verdict(found[path.name])), highlight=False)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({n: as_json(each) for n, each in found.items()}, indent=1) + "\n", "utf-8")
    if found and (args.plot or args.json):
        plot(found, args.plot or args.json.with_suffix(".png"))
    return 1 if any(beaten_by_jpeg(verdict(each)) for each in found.values()) else 0


def measured(loaded: Bundle, data: Path, most: int) -> list[Row]:
    """All rows of one bundle, on the samples it carries or the test split of its data set under `data`."""
    own = loaded.manifest.samples is not None
    split = held_out(loaded, None if own else data / loaded.manifest.name.replace("-", "_"), most)
    return list(rows(Model(loaded), preprocess(split.images, loaded.manifest), split.labels))


def table(name: str, found: list[Row]) -> Table:
    """The front at each split point: what no other codec there beats in bytes, time and accuracy at once."""
    view = Table(title=f"{name}: Pareto fronts, one sample at a time (* not offered)", title_justify="left", box=None)
    for head in _HEADS:
        view.add_column(head, justify="left" if head == "codec" else "right", no_wrap=True)
    for ordered in fronts(found).values():
        for row in ordered:
            view.add_row(
                str(row.split_point),
                row.codec + ("" if row.offered else " *"),
                f"{row.bytes:,.0f}",
                f"{row.encode_us:,.0f}",
                f"{row.decode_us:,.0f}",
                f"{row.accuracy:.2%}",
                f"{row.head_share:.0%}",
                end_section=row is ordered[-1],
            )
    return view


def as_json(found: list[Row]) -> dict[str, Any]:
    best = {id(row) for each in fronts(found).values() for row in each}
    shown = [field.name for field in fields(Row) if field.name != "right"]
    every = [{name: getattr(row, name) for name in shown} | {"front": id(row) in best} for row in found]
    return {"verdict": verdict(found), "rows": every}


def plot(found: dict[str, list[Row]], path: Path) -> None:
    """Accuracy over bytes, one panel per bundle: activations by codec, and the input as an image."""
    figure = Figure(figsize=(6 * len(found), 4.5), layout="constrained")
    for axes, (name, each) in zip(np.atleast_1d(figure.subplots(1, len(found))), found.items(), strict=True):
        _panel(axes, name, each)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, name: str, found: list[Row]) -> None:
    for kind, colour in _COLOURS.items():
        _points(axes, [row for row in inner(found) if row.codec.startswith(kind)], "o", kind, colour)
    for kind, colour in _IMAGE_COLOURS.items():
        mine = sorted((row for row in found if row.codec.startswith(kind)), key=lambda row: row.bytes)
        _points(axes, mine, "-s", f"input, {kind}", colour)
    _points(axes, [row for row in found if row.codec in _LOSSLESS], "^", "input, lossless", "black")
    full = 100 * whole(found).accuracy
    axes.axhline(full, color="#8d99a6", linestyle="--", linewidth=1)
    axes.set(xscale="log", xlabel="bytes of one sample", ylabel="accuracy, %", title=name, ylim=(full - 6, full + 1.5))
    axes.legend(fontsize=7, loc="lower right")


def _points(axes: Axes, found: list[Row], marks: str, label: str, colour: str) -> None:
    accuracies = [100 * row.accuracy for row in found]
    axes.plot([row.bytes for row in found], accuracies, marks, markersize=4, color=colour, label=label)


if __name__ == "__main__":
    sys.exit(main())
