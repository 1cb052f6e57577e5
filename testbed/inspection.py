"""`offramp inspect`: what a bundle holds, for people and for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from services import bundle, exits
from services.bundle import Bundle, ExitSpec, Manifest
from services.model import Model
from testbed.split_points import SplitPointTable
from testbed.weighing import CODEC, shipped, weigh


def as_json(path: Path) -> dict[str, Any]:
    """The verified manifest, bytes after the codec at each split point, and the size of every file, as JSON values."""
    loaded, weights = _verified(path)
    found = loaded.manifest.model_dump(mode="json")
    for point in found["split_points"]:
        point["bytes_after_codec"] = weights.get(point["index"])
    return found | {"codec": CODEC, "files": _sizes(path)}


def shown(path: Path) -> Group:
    """The verified bundle as tables."""
    loaded, weights = _verified(path)
    manifest = loaded.manifest
    return Group(_head(manifest, path), SplitPointTable(manifest, weights), *_exits(manifest))


def _verified(path: Path) -> tuple[Bundle, dict[int, float]]:
    """Loads the bundle and holds the graph against the manifest, as a tier does at start.

    With it the mean bytes of a sample after the codec, by split point: what the manifest says was measured, else
    measured now on the inputs that the bundle carries, if it does.
    """
    loaded = bundle.load(path)
    model = Model(loaded)
    found = loaded.manifest.codec_accuracy
    if not any(entry.codec == CODEC for entry in found) and (inputs := shipped(loaded)) is not None:
        found = weigh(model, inputs)
    return loaded, {e.split_point: e.bytes_per_sample for e in found if e.codec == CODEC and e.bytes_per_sample}


def _sizes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(path.iterdir()) if file.is_file()}


def _head(manifest: Manifest, path: Path) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    rows = {
        "bundle": f"{manifest.name}, version {manifest.version}",
        "SHA-256 of the graph": manifest.graph_sha256,
        "input": f"{manifest.input.name} [N, {', '.join(map(str, manifest.input.shape))}] {manifest.input.dtype}",
        "labels": f"{len(manifest.labels)}: {', '.join(manifest.labels[:12])}",
        "files": ", ".join(f"{name} {size:,} B" for name, size in _sizes(path).items()),
    }
    if (found := manifest.calibration) is not None:
        rows["contract"] = (
            f"at most {found.epsilon:.2%} below the whole network's {found.full_accuracy:.2%} with confidence "
            f"{1 - found.delta:.0%}, from {found.samples:,} calibration samples"
        )
    for name, value in rows.items():
        table.add_row(f"[bold]{name}[/]", Text(value, overflow="fold"))
    return table


def _exits(manifest: Manifest) -> list[Table | Text]:
    """Of each exit but the final one its curve, or that it has none, and so answers nobody."""
    return [_curve(spec) if spec.curve else _uncalibrated(spec) for spec in manifest.exits[:-1]]


def _uncalibrated(spec: ExitSpec) -> Text:
    leaves = "never leaves here" if exits.never(spec.threshold) else f"threshold {spec.threshold:.6g}"
    return Text(f"Exit {spec.index}, {spec.name}: not calibrated, {leaves}")


def _curve(spec: ExitSpec) -> Table:
    threshold = "never leaves here" if exits.never(spec.threshold) else f"threshold {spec.threshold:.6g}"
    title = f"Exit {spec.index}, {spec.name}: {threshold}, temperature {spec.temperature:.4g}"
    table = Table(title=title, title_justify="left")
    for column in ("threshold", "leave", "accuracy of those"):
        table.add_column(column, justify="right")
    for point in spec.curve:
        accuracy = "–" if point.accuracy is None else f"{point.accuracy:.2%}"
        style = "bold green" if point.threshold == spec.threshold else None
        table.add_row(f"{point.threshold:.6g}", f"{point.exit_rate:.2%}", accuracy, style=style)
    return table
