"""The table of a network's split points: what each carries, and what that weighs on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from services.bundle import Manifest, SplitPointSpec
from testbed.weighing import CODEC

_WIDE = 132
_NUMBERS = ("elements", "c = |z|/|x|", "fp32 B", "int8 B", CODEC + " B")


@dataclass(frozen=True, slots=True)
class SplitPointTable:
    """One row per split point; where the console is narrow, names fold and what follows from the rest is left out."""

    manifest: Manifest
    weights: dict[int, float]
    """Mean bytes of one sample after the codec, by split point; measured."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        table = Table(title="Split points", title_justify="left", box=box.HEAVY_HEAD if wide else box.SIMPLE_HEAD)
        table.padding, table.collapse_padding = ((0, 1), False) if wide else ((0, 0, 0, 1), True)
        if not wide:
            table.caption, table.caption_justify = "fp32 bytes: 4 × elements.  N natural, C compressive", "left"
        for name in self._columns(wide):
            left = name in ("after", "shape")
            table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left)
        for point in self.manifest.split_points:
            table.add_row(*self._cells(point, wide))
        yield table

    def _columns(self, wide: bool) -> list[str]:
        elements, ratio, fp32, int8, measured = _NUMBERS
        if wide:
            return ["index", "after", "shape", elements, ratio, "natural", "compressive", fp32, int8, measured]
        return ["#", "after", "shape", elements, "c", "", int8, measured]

    def _cells(self, point: SplitPointSpec, wide: bool) -> list[str | Text]:
        weight = self.weights.get(point.index)
        measured = "–" if weight is None else f"{weight:,.0f}"
        start: list[str | Text] = [
            str(point.index),
            self._after(point),
            "×".join(map(str, point.shape)),
            f"{point.elements:,}",
        ]
        if not wide:
            kind = ("N" if point.natural else "") + ("C" if point.compressive else "")
            return [*start, f"{point.ratio:.3f}", kind, f"{point.bytes_int8:,}", measured]
        flags = ["yes" if flag else "" for flag in (point.natural, point.compressive)]
        return [*start, f"{point.ratio:.3f}", *flags, f"{point.bytes_fp32:,}", f"{point.bytes_int8:,}", measured]

    def _after(self, point: SplitPointSpec) -> Text:
        """The node, shortened to its outermost part and its own name, and the exit that belongs there."""
        parts = [part for part in point.after.split("/") if part]
        text = Text(f"{parts[0]}/{parts[-1]}" if len(parts) > 1 else point.after)
        for spec in self.manifest.exits:
            if spec.split_point == point.index:
                text.append(f" {spec.name} exit", style="bold green")
        return text
