"""Logarithmic axes whose numbers a person reads at a glance: 0.1, 1, 10 and not powers of ten."""

from __future__ import annotations

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, NullFormatter


def plain_numbers(axis: Axis) -> None:
    """Labels the marks of a logarithmic `axis`, after its scale was set."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
