"""`offramp inspect`: what a bundle holds, for people and for scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from services import bundle
from services.bundle import Bundle, ExitSpec, Manifest
from services.model import Model


def as_json(path: Path) -> dict[str, Any]:
    """The verified manifest and the size of every file, as JSON values."""
    loaded = _verified(path)
    return loaded.manifest.model_dump(mode="json") | {"files": _sizes(path)}


def shown(path: Path) -> Group:
    """The verified bundle as tables."""
    loaded = _verified(path)
    manifest = loaded.manifest
    return Group(_head(manifest, path), _split_points(manifest), *_exits(manifest))


def _verified(path: Path) -> Bundle:
    """Loads the bundle and holds the graph against the manifest, as a tier does at start."""
    loaded = bundle.load(path)
    Model(loaded)
    return loaded


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


def _split_points(manifest: Manifest) -> Table:
    table = Table(title="Split points", title_justify="left")
    for column in ("index", "after", "shape", "elements", "c = |z|/|x|", "natural", "compressive", "fp32 B", "int8 B"):
        table.add_column(column, justify="left" if column in ("after", "shape") else "right")
    exits = {spec.split_point: spec.name for spec in manifest.exits}
    for point in manifest.split_points:
        exit_mark = f"  [bold green]exit {exits[point.index]}[/]" if point.index in exits else ""
        table.add_row(
            str(point.index),
            point.after.rsplit("/", 1)[-1] + exit_mark,
            "×".join(map(str, point.shape)),
            f"{point.elements:,}",
            f"{point.ratio:.3f}",
            "yes" if point.natural else "",
            "yes" if point.compressive else "",
            f"{point.bytes_fp32:,}",
            f"{point.bytes_int8:,}",
        )
    return table


def _exits(manifest: Manifest) -> list[Table]:
    return [_curve(spec) for spec in manifest.exits if spec.curve and spec.split_point != manifest.last]


def _curve(spec: ExitSpec) -> Table:
    title = f"Exit {spec.index}, {spec.name}: threshold {spec.threshold:.6g}, temperature {spec.temperature:.4g}"
    table = Table(title=title, title_justify="left")
    for column in ("threshold", "leave", "accuracy of those"):
        table.add_column(column, justify="right")
    for point in spec.curve:
        accuracy = "–" if point.accuracy is None else f"{point.accuracy:.2%}"
        style = "bold green" if point.threshold == spec.threshold else None
        table.add_row(f"{point.threshold:.6g}", f"{point.exit_rate:.2%}", accuracy, style=style)
    return table
