"""`offramp bench policies`: what choosing the plan is worth, on recorded links."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from services.errors import InvalidInput
from testbed import traces
from testbed.commands import places

if TYPE_CHECKING:
    from testbed.bench.conduct import Asked, Found
    from testbed.bench.results import Comparison, Target
    from testbed.bench.world import Loop, World

app = typer.Typer(no_args_is_help=True, help="Benchmarks over recorded links.")

EPILOG = "Example: offramp bench policies --trace traces/ --virtual --data data/ --photos photos/ --json policies.json"
_QUICK_SECONDS, _QUICK_TRACES = 15.0, 3
_VIRTUAL_SECONDS, _REAL_SECONDS = 120.0, 30.0
_ROUNDS = 2
_POLICIES = (
    "Only these, with commas; none: all. offramp, device, cloud-raw, cloud-jpeg, best-static, dsc, exits-fixed, "
    "oracle, oracle-now, oracle-late."
)
_TRACE_CHARACTERS = 24  # of a name, the last: as many as leave room for the numbers on 80 columns


@app.command(epilog=EPILOG)
def policies(
    trace: Annotated[list[Path], typer.Option("--trace", help="Link trace, or a folder of them; repeatable.")],
    virtual: Annotated[bool, typer.Option("--virtual", help="Simulate only: hours of trace take seconds.")] = False,
    bundle: Annotated[
        list[Path] | None,
        typer.Option("--bundle", help="Bundle to run; repeatable; none: CIFAR-10 with exits, and EfficientNet-B0."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data sets, for labelled inputs.")] = None,
    photos: Annotated[
        Path | None, typer.Option("--photos", help="Folder of photos, for unlabelled inputs: its first 64.")
    ] = None,
    loop: Annotated[str, typer.Option("--loop", help="closed, open, or both.")] = "both",
    policy: Annotated[str | None, typer.Option("--policies", help=_POLICIES)] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=1, help="Of each trace; none: 120 simulated, 30 on running tiers.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Simulate traces in their whole length.")] = False,
    device_slowdown: Annotated[float, typer.Option("--device-slowdown", min=1, max=1000, help="Over the cloud.")] = 8.0,
    edge_slowdown: Annotated[float, typer.Option("--edge-slowdown", min=1, max=1000, help="Over the cloud.")] = 2.0,
    rtt: Annotated[str, typer.Option("--rtt", help="Round trip between device and edge.")] = "10ms",
    edge_cloud: Annotated[str, typer.Option("--edge-cloud", help="Link edge-cloud: RATE,RTT.")] = "50mbit,40ms",
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Turns of each policy on the running tiers; none: 2.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of samples, arrivals and resampling.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="15 seconds of at most 3 traces, one turn.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Where report.html, policies.csv and logs go.")] = Path(
        "out/bench"
    ),
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 where a target is missed.")] = False,
) -> None:
    """All policies side by side on recorded links: ours, static plans, published ones, hindsight and the oracle."""
    from testbed.bench import conduct

    files, length, turns = _files(trace), _seconds(seconds, virtual, whole, quick), _rounds(rounds, virtual, quick)
    _check_inputs(bundle or [], data, photos)
    places.folder(out)
    places.file(json_file)
    world = _world(device_slowdown, edge_slowdown, rtt, edge_cloud)
    names, loops = _names(policy), _loops(loop)
    files = _readable(files[:_QUICK_TRACES] if quick else files)
    asked = conduct.Asked(files, bundle or (), data, photos, loops, names, length, turns, seed, out, world)
    console = Console()
    steps = len(files) * len(loops) * len(names) * (1 if virtual else turns) * len(bundle or (1, 2))
    found = _compared(asked, virtual, steps, console)
    conduct.write(found, asked, json_file)
    _show(found, console)
    wrote = f"wrote {out / 'report.html'}, {out / 'policies.csv'}" + (f", {json_file}" if json_file else "")
    console.print(wrote, markup=False, soft_wrap=True)
    if strict and any(target.met is False for target in found.targets):
        raise typer.Exit(1)


def _show(found: Found, console: Console) -> None:
    """What came of each comparison, and of the targets."""
    for each in found.comparisons:
        console.print(_shown(each))
    console.print(_verdicts(found.targets))


def _compared(asked: Asked, virtual: bool, steps: int, console: Console) -> Found:
    """Every policy on every trace, under a progress bar of `steps`."""
    from testbed.bench import conduct
    from testbed.commands.waiting import wait_for

    with _progress(console) as bar:
        task = bar.add_task("measuring", total=steps)

        def on_step(text: str) -> None:
            bar.update(task, advance=1, description=text)

        return conduct.on_paper(asked, on_step) if virtual else wait_for(conduct.on_tiers(asked, on_step))


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:50.50}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _seconds(asked: float | None, virtual: bool, whole: bool, quick: bool) -> float | None:
    """Of each trace; None: its whole length. Raises InvalidInput for options of which one would be ignored."""
    if whole and not virtual:
        raise InvalidInput("--whole is for the simulation alone: give --virtual, too, or --seconds")
    if (whole, quick, asked is not None).count(True) > 1:
        raise InvalidInput("--seconds, --whole and --quick each say how much of a trace to take; give one of them")
    if whole or asked is not None:
        return asked
    if quick:
        return _QUICK_SECONDS
    return _VIRTUAL_SECONDS if virtual else _REAL_SECONDS


def _rounds(asked: int | None, virtual: bool, quick: bool) -> int:
    """Turns of each policy. Raises InvalidInput where they were asked for and would be ignored."""
    if asked is not None and (virtual or quick):
        raise InvalidInput(
            "--rounds is for running tiers, not --virtual, and --quick takes one turn: leave one of them out"
        )
    return 1 if quick else _ROUNDS if asked is None else asked


def _check_inputs(bundles: list[Path], data: Path | None, photos: Path | None) -> None:
    """Raises InvalidInput for a folder that none of `bundles` takes its inputs from."""
    from services.bundle import read_manifest
    from testbed.bench.workloads import DATA, PHOTOS, source

    wanted = {source(read_manifest(path)) for path in bundles}
    for option, given in ((DATA, data), (PHOTOS, photos)):
        if bundles and given is not None and option not in wanted:
            raise InvalidInput(f"no --bundle here takes its inputs from {option}: leave it out")


def _files(given: list[Path]) -> list[Path]:
    """The trace files, those in folders included. Raises InvalidInput where one is missing, or two have one name."""
    found = [file for path in given for file in (_traces_in(path) if path.is_dir() else [path])]
    if missing := [file for file in found if not file.is_file()]:
        raise InvalidInput(f"--trace needs link traces, files or folders of them; {missing[0]} is no file")
    if len({traces.name_of(file) for file in found}) < len(found):
        raise InvalidInput("--trace needs link traces with names of their own: files, or folders of them")
    return found


def _readable(files: list[Path]) -> list[Path]:
    """The same. Raises InvalidInput for a broken trace: before an hour of measuring, not after it."""
    try:
        for file in files:
            traces.read_trace(file)
    except traces.TraceError as error:
        raise InvalidInput(str(error)) from None
    return files


def _traces_in(folder: Path) -> list[Path]:
    """What else lies there is passed over. Raises InvalidInput where no file is a trace, and names folders to try."""
    found = [file for file in sorted(folder.iterdir()) if file.is_file() and traces.is_trace(file)]
    if not found:
        inside = ", ".join(str(path) for path in sorted(folder.iterdir()) if path.is_dir())
        raise InvalidInput(f"--trace {folder}: no file there is a link trace" + (f"; try {inside}" if inside else ""))
    return found


def _names(text: str | None) -> tuple[str, ...]:
    """Raises InvalidInput for a policy that there is not."""
    from testbed.bench.policies import NAMES

    names = tuple(text.split(",")) if text else NAMES
    if unknown := [name for name in names if name not in NAMES]:
        raise InvalidInput(f"there is no policy {unknown[0][:40]!r}; known: {', '.join(NAMES)}")
    return names


def _loops(text: str) -> tuple[Loop, ...]:
    from testbed.bench.world import Loop

    if text not in ("both", *Loop):
        raise InvalidInput("--loop is closed, open or both")
    return tuple(Loop) if text == "both" else (Loop(text),)


def _world(device_slowdown: float, edge_slowdown: float, rtt: str, edge_cloud: str) -> World:
    """Raises SettingsError for a link that cannot be read."""
    from testbed.bench.world import World
    from testbed.local import LinkAsked
    from testbed.traces import parse_duration, parse_rate

    far, near = LinkAsked.parse(edge_cloud), LinkAsked.parse(f"1mbit,{rtt}")
    return World(
        near_rtt_seconds=parse_duration(near.rtt),
        far_rate=parse_rate(far.rate),
        far_rtt_seconds=parse_duration(far.rtt),
        device_slowdown=device_slowdown,
        edge_slowdown=edge_slowdown,
    )


def _shown(each: Comparison) -> Table:
    """Our mean milliseconds on each trace, beside hindsight and two oracles; the other policies are in the report."""
    from testbed.bench.policies import BEST_STATIC, NOW_ORACLE, ORACLE, OURS

    table = Table(title=f"{each.title}: mean ms", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("trace", "ours", "static", "/static", "/oracle", "/now", "crosses"):
        table.add_column(column, justify="left" if column == "trace" else "right")
    ratios = [each.ratios(name) for name in (BEST_STATIC, ORACLE, NOW_ORACLE)]
    for trace, found in each.traces.items():
        means = [f"{found[name].mean_ms:.1f}" if name in found else "–" for name in (OURS, BEST_STATIC)]
        shown = [f"{ratio[trace]:.3f}" if trace in ratio else "–" for ratio in ratios]
        table.add_row(Text(trace[-_TRACE_CHARACTERS:]), *means, *shown, "yes" if each.crossing.get(trace) else "no")
    return table


def _verdicts(found: list[Target]) -> Table:
    from testbed.bench.report import verdict

    table = Table(title="Targets", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("target", "where", "found", ""):
        table.add_column(column)
    for target in found:
        colour = {True: "green", False: "red", None: "dim"}[target.met]
        table.add_row(target.name, Text(target.where), Text(target.found), f"[{colour}]{verdict(target.met)}[/]")
    return table
