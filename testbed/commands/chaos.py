"""`offramp chaos`: break tiers and links of a running testbed by a seeded schedule, and check what must hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from testbed.commands import places
from testbed.commands.waiting import wait_for

if TYPE_CHECKING:
    from testbed.local import TestbedSettings

EPILOG = "Example: offramp chaos --minutes 2 --seed 0 --json out/chaos/report.json"

DEVICE_SLOWDOWN, EDGE_SLOWDOWN = 80.0, 2.0


def chaos(
    minutes: Annotated[float, typer.Option("--minutes", min=0.2, max=1440, help="How long.")] = 2.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the schedule and of the requests.")] = 0,
    file: Annotated[Path | None, typer.Option("--json", help="File to write the report to.")] = None,
    bundle: Annotated[Path, typer.Option("--bundle", envvar="OFFRAMP_BUNDLE", help="Directory of the bundle.")] = Path(
        "models/digits"
    ),
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory of the data set's files, or an .npz of labelled images.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the picture and the logs go.")] = Path("out/chaos"),
    callers: Annotated[int, typer.Option("--in-flight", min=1, max=64, help="Requests at a time.")] = 10,
    device_edge: Annotated[str, typer.Option("--device-edge", help="Link device-edge: RATE,RTT.")] = "20mbit,10ms",
    edge_cloud: Annotated[str, typer.Option("--edge-cloud", help="Link edge-cloud: RATE,RTT.")] = "50mbit,20ms",
    device_slowdown: Annotated[
        float, typer.Option("--device-slowdown", min=1, max=1000, help="How much slower than the cloud the device is.")
    ] = DEVICE_SLOWDOWN,
    edges: Annotated[
        int, typer.Option("--edges", min=1, max=8, help="Edge nodes; faults come to the first of them.")
    ] = 1,
    in_containers: Annotated[
        bool, typer.Option("--containers", help="Break containers, brought up for this by Docker Compose.")
    ] = False,
) -> None:
    """Kill, pause, restart and drain tiers, cut, slow and flap links, under traffic; 1 if anything gave way."""
    from services.bundle import load
    from testbed.chaos import containers, processes, report, run
    from testbed.demo import with_channels
    from testbed.samples import held_out

    places.file(file)
    places.folder(out)
    console = Console()
    settings = _settings(bundle, device_edge, edge_cloud, seed, out, device_slowdown, edges)
    images = with_channels(held_out(load(bundle), data).images)
    start = containers.running if in_containers else processes.running
    found = wait_for(run.run(run.Asked(settings, minutes, seed, callers, out, start), images, console))
    if file is not None:
        file.write_text(json.dumps(found, indent=2) + "\n")
    console.print(report.table(found))
    console.print(report.sentence(found))
    wrote = f"wrote {out / 'timeline.png'}" + (f", {file}" if file else "")
    console.print(wrote, markup=False, soft_wrap=True)
    if not report.passed(found):
        raise typer.Exit(1)


def _settings(
    bundle: Path, device_edge: str, edge_cloud: str, seed: int, out: Path, device_slowdown: float, edges: int
) -> TestbedSettings:
    from testbed.local import LinkAsked, TestbedSettings

    return TestbedSettings(
        bundle,
        LinkAsked.parse(device_edge),
        LinkAsked.parse(edge_cloud),
        seed=seed,
        logs=out / "logs",
        device_slowdown=device_slowdown,
        edge_slowdown=EDGE_SLOWDOWN,
        edges=edges,
        transports=("unary", "exchange") if seed % 2 else ("exchange", "unary"),
    )
