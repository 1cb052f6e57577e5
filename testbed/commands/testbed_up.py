"""`offramp run` and `offramp up`: three tiers and two emulated links on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from services.errors import InvalidInput, OfframpError
from testbed.commands.waiting import wait_for

if TYPE_CHECKING:
    from services.bundle import Manifest
    from testbed.local import TestbedSettings

RUN_EPILOG = "Example: offramp run --bundle models/cifar10 --data data/cifar10 --device-slowdown 8 --then 1mbit,10ms"
UP_EPILOG = "Example: offramp up --bundle models/mnist --port 8001"

BundleOption = Annotated[Path, typer.Option("--bundle", envvar="OFFRAMP_BUNDLE", help="Directory of the bundle.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where summary, pictures and logs go.")]
DeviceEdgeOption = Annotated[str, typer.Option("--device-edge", help="Link device-edge: RATE,RTT.")]
EdgeCloudOption = Annotated[str, typer.Option("--edge-cloud", help="Link edge-cloud: RATE,RTT.")]
PortOption = Annotated[
    int | None,
    typer.Option("--port", min=1, max=65535, help="Port of the public door; none: 8001 when serving, else a free one."),
]
ConsoleOption = Annotated[
    int | None,
    typer.Option(
        "--console-port", min=0, max=65535, help="Port of the live console; 0: none; not given: 8000 when serving."
    ),
]
SplitsOption = Annotated[
    str | None,
    typer.Option("--splits", envvar="OFFRAMP_SPLITS", help="Two fixed split points, e.g. 7,14; none: planned."),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Seed of the order of requests and of the links' jitter.")
]
DeviceSlowdownOption = Annotated[
    float, typer.Option("--device-slowdown", min=1, max=1000, help="How much slower than the cloud the device is.")
]
EdgeSlowdownOption = Annotated[
    float, typer.Option("--edge-slowdown", min=1, max=1000, help="How much slower than the cloud the edge is.")
]

BUNDLE = Path("models/digits")
OUT = Path("out/run")
CONSOLE_PORT = 8000
DEVICE_EDGE, THEN, EDGE_CLOUD = "20mbit,10ms", "0.1mbit,10ms", "50mbit,40ms"
LIMIT = 1000
DEVICE_SLOWDOWN, EDGE_SLOWDOWN = 1000.0, 2.0
"""The digits' network is so small that only a microcontroller has reason to hand it over."""


def run(
    bundle: BundleOption = BUNDLE,
    out: OutOption = OUT,
    serve: Annotated[bool, typer.Option("--serve", help="Leave the tiers up until Ctrl-C; send nothing.")] = False,
    port: PortOption = None,
    console_port: ConsoleOption = None,
    device_edge: DeviceEdgeOption = DEVICE_EDGE,
    then: Annotated[
        str | None,
        typer.Option("--then", help=f"Link device-edge from half way on: RATE,RTT; -: as it is; none: {THEN}."),
    ] = None,
    edge_cloud: EdgeCloudOption = EDGE_CLOUD,
    data: Annotated[
        Path | None, typer.Option("--data", help="Directory of the data set's files, or an .npz of labelled images.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most inputs to send; none: 1000.")] = None,
    in_flight: Annotated[
        int | None, typer.Option("--in-flight", min=1, max=256, help="Requests at a time; none: 1.")
    ] = None,
    splits: SplitsOption = None,
    device_slowdown: DeviceSlowdownOption = DEVICE_SLOWDOWN,
    edge_slowdown: EdgeSlowdownOption = EDGE_SLOWDOWN,
    seed: SeedOption = 0,
) -> None:
    """Start three tiers and two emulated links, send held-out inputs, show what happened and how the plan changed."""
    from services.bundle import load

    if serve and any(each is not None for each in (data, limit, in_flight, then)):
        raise InvalidInput("--serve sends nothing: leave it out, or --data, --limit, --in-flight and --then")
    console = Console()
    then = None if then == "-" else THEN if then is None else then
    slower = device_slowdown, edge_slowdown
    settings = _settings(bundle, device_edge, edge_cloud, port, console_port, splits, seed, out, serve, *slower, then)
    from testbed import demo  # which takes a second: what is wrong with a call is said before
    from testbed.samples import held_out

    if serve:
        wait_for(demo.serve(settings, console))
        return
    loaded = load(bundle)
    split = held_out(loaded, data, limit or LIMIT)
    summary = wait_for(demo.demonstrate(settings, split, out, in_flight or 1, console))
    _show(summary, loaded.manifest, settings, out, console)


def _show(summary: dict[str, Any], manifest: Manifest, settings: TestbedSettings, out: Path, console: Console) -> None:
    """What a run found. Raises OfframpError where requests failed."""
    from testbed import report

    console.print(report.table(summary))
    console.print(report.plans_table(summary))
    for hint in report.hints(summary, manifest, settings):
        console.print(hint, highlight=False)
    console.print(report.sentence(summary, out), markup=False, soft_wrap=True)
    if summary["failed"]:
        raise OfframpError(f"{summary['failed']} requests failed; the logs are in {settings.logs}")


def up(
    bundle: BundleOption = BUNDLE,
    out: OutOption = OUT,
    port: PortOption = None,
    console_port: ConsoleOption = None,
    device_edge: DeviceEdgeOption = DEVICE_EDGE,
    edge_cloud: EdgeCloudOption = EDGE_CLOUD,
    splits: SplitsOption = None,
    device_slowdown: DeviceSlowdownOption = DEVICE_SLOWDOWN,
    edge_slowdown: EdgeSlowdownOption = EDGE_SLOWDOWN,
    seed: SeedOption = 0,
) -> None:
    """Start three tiers and two emulated links and leave them up until Ctrl-C."""
    settings = _settings(
        bundle,
        device_edge,
        edge_cloud,
        port,
        console_port,
        splits,
        seed,
        out,
        True,
        device_slowdown,
        edge_slowdown,
        None,
    )
    from testbed import demo

    wait_for(demo.serve(settings, Console()))


def _settings(
    bundle: Path,
    device_edge: str,
    edge_cloud: str,
    port: int | None,
    console_port: int | None,
    splits: str | None,
    seed: int,
    out: Path,
    serve: bool,
    device_slowdown: float,
    edge_slowdown: float,
    then: str | None,
) -> TestbedSettings:
    from testbed.local import LinkAsked, TestbedSettings

    if splits:
        _check_splits(bundle, splits)
    default_port = 8001 if serve else 0
    return TestbedSettings(
        bundle,
        LinkAsked.parse(device_edge),
        LinkAsked.parse(edge_cloud),
        f"127.0.0.1:{default_port if port is None else port}",
        splits,
        seed,
        out / "logs",
        device_slowdown,
        edge_slowdown,
        None if then is None else LinkAsked.parse(then),
        _console(console_port, serve),
    )


def _check_splits(bundle: Path, splits: str) -> None:
    """Raises SettingsError where the device would refuse them, before anything is started."""
    from services.bundle import read_manifest
    from services.fixed import fixed_plan
    from services.settings import DeviceSettings, read

    given = read(DeviceSettings, ["--splits", splits])
    fixed_plan(read_manifest(bundle), given.split_points, given.hop_codecs)


def _console(port: int | None, serve: bool) -> str:
    wanted = (CONSOLE_PORT if serve else 0) if port is None else port
    return f"127.0.0.1:{wanted}" if wanted else "-"
