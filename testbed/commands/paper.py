"""`offramp paper`: what published work claims, computed and measured here."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from services.errors import InvalidInput
from testbed.commands import places

if TYPE_CHECKING:
    from testbed.dsc import Bottlenecks
    from testbed.dsc_report import Report

EPILOG = "Example: offramp paper dsc --json counts.json --out out/dsc --slowdown 8"
OUT, SLOWDOWN, SECONDS = Path("out/dsc"), 8.0, 30.0
NETWORKS = ("efficientnet-b0", "efficientnetv2-s")
_CLAIM = (
    "gain: time saved by choosing over one static split, averaged over the splits and the grid (the paper claims "
    "20-30 %); over best: over the static option, split or not, that loses least"
)


def dsc(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the bottleneck counts, a list of models, to this file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the maps and their numbers go; none: out/dsc.")
    ] = None,
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="Measure heads and tails here and draw maps.")] = True,
    slowdown: Annotated[
        float | None,
        typer.Option("--slowdown", min=1, max=1000, help="How many times slower than here the device is; none: 8."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", min=1, max=3600, help="Measuring time for each network, about; none: 30."),
    ] = None,
) -> None:
    """Dynamic Split Computing (ICASSP 2023): bottlenecks of the EfficientNets, regimes and gains on this machine."""
    from testbed import dsc as computed

    if not maps and any(each is not None for each in (out, slowdown, seconds)):
        raise InvalidInput("--no-maps measures nothing here: leave it out, or --out, --slowdown and --seconds")
    places.file(json_file)
    folder = OUT if out is None else out
    if maps:
        places.folder(folder)
    console = Console()
    found = computed.efficientnets()
    console.print(_counts(found))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps([asdict(entry) for entry in found], indent=2) + "\n")
    if maps:
        _maps(console, folder, slowdown or SLOWDOWN, seconds or SECONDS)


def _counts(found: list[Bottlenecks]) -> Table:
    from testbed.dsc import compressive

    table = Table(title="Bottlenecks at block outputs", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.padding, table.collapse_padding, table.caption_justify = (0, 1, 0, 0), True, "left"
    for column in ("model", "input", "blocks", "natural", "compressive", "c of the compressive"):
        table.add_column(column, justify="left" if column in ("model", "c of the compressive") else "right")
    for entry in found:
        ratios = " ".join(f"{entry.ratios[number - 1]:.3f}".lstrip("0") for number in compressive(entry.ratios))
        numbers = (entry.input, entry.blocks, entry.natural, entry.compressive)
        table.add_row(entry.model, *map(str, numbers), ratios)
    natural = [entry.natural for entry in found]
    kept = sorted({entry.compressive for entry in found})
    table.caption = (
        f"natural {min(natural)} to {max(natural)}, compressive {' or '.join(map(str, kept))}; "
        "the paper: 15 to 68, and 3 or 4"
    )
    return table


def _maps(console: Console, out: Path, slowdown: float, seconds: float) -> None:
    from services.process import tune_allocator
    from testbed.dsc_report import report

    tune_allocator()  # as a tier does at its start, so that these are the times of one
    out.mkdir(parents=True, exist_ok=True)
    reports = []
    with Progress(console=console, transient=True) as progress:
        for name in NETWORKS:
            task = progress.add_task(f"{name}: heads and tails, 1 thread", total=1.0)

            def tick(done: float, task: TaskID = task) -> None:
                progress.update(task, completed=done)

            reports.append(report(name, out, slowdown, seconds, tick))
            tick(1.0)
    for entry in reports:
        console.print(_regimes(entry))
    (out / "dsc.json").write_text(json.dumps([entry.as_json() for entry in reports], indent=2) + "\n")
    console.print(
        f"device {slowdown:g} times slower than this machine, which is the server; measured with onnxruntime, "
        "1 thread;\ntimes of data and compute only, as in the paper: no round trip, no codec, no queue\n"
        f"wrote {out / 'dsc.json'} and {', '.join(str(path) for entry in reports for path in entry.pictures)}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _regimes(report: Report) -> Table:
    title = f"{report.model}, device {report.slowdown:g}x slower ({report.rounds} rounds, spread {report.spread:.0%})"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, caption=_CLAIM, caption_justify="left")
    for column in ("rates, MB/s", "bits", "splits best somewhere", "a split best in", "gain", "over best"):
        table.add_column(column, justify="left" if column.startswith("rates") else "right", no_wrap=column[0] == "r")
    for grid in report.grids:
        found = grid.findings
        table.add_row(
            grid.rates,
            str(grid.bits),
            f"{found.splits_optimal_somewhere} of {len(found.options) - 2}",
            f"{found.split_share:.1%}",
            f"{found.gain_over_splits:.1%}",
            f"{min(found.gain):.1%}",
        )
    return table


def register(app: typer.Typer) -> None:
    """Adds `paper dsc` to the command line."""
    paper = typer.Typer(no_args_is_help=True, help="What published work claims, computed and measured here.")
    paper.callback()(_group)
    paper.command("dsc", epilog=EPILOG)(dsc)
    app.add_typer(paper, name="paper")


def _group() -> None:
    """Keeps `dsc` a command of its own while there is only one."""
