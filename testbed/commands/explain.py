"""`offramp explain`: which plan, why, and what else was close."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from services.domain import Objective

EPILOG = "Example: offramp explain models/mnist --links 5mbit,30ms --links 50mbit,40ms --device-slowdown 8"
_LINKS = ("20mbit,10ms", "50mbit,40ms")


def explain(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.", metavar="BUNDLE")],
    links: Annotated[
        list[str] | None,
        typer.Option(
            "--links", help="RATE,RTT; twice: device-edge, then edge-cloud; none: 20mbit,10ms and 50mbit,40ms."
        ),
    ] = None,
    device_slowdown: Annotated[
        float,
        typer.Option("--device-slowdown", min=1, max=1000, help="How much slower than this machine the device is."),
    ] = 8.0,
    edge_slowdown: Annotated[
        float, typer.Option("--edge-slowdown", min=1, max=1000, help="How much slower than this machine the edge is.")
    ] = 2.0,
    batch: Annotated[int, typer.Option("--batch", min=1, max=4096, help="Samples in a request.")] = 1,
    policy: Annotated[Objective, typer.Option("--policy", help="What to have least of.")] = Objective.LATENCY,
    min_accuracy: Annotated[
        float | None, typer.Option("--min-accuracy", min=0, max=1, help="Expected accuracy that a plan must keep.")
    ] = None,
    deadline: Annotated[
        float | None, typer.Option("--deadline", min=0.001, help="Seconds that a plan may be expected to take.")
    ] = None,
    privacy: Annotated[bool, typer.Option("--privacy", help="The input itself does not leave the device.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=3600, help="Time for measuring runs.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the plan that would be chosen for these links and machines, the next five, and what each term costs."""
    from services import measuring
    from services.bundle import load
    from services.domain import Policy, Tier
    from services.model import Model
    from testbed import explain as explaining
    from testbed.local import LinkAsked

    loaded, asked = load(bundle), [LinkAsked.parse(text) for text in links or _LINKS]
    slowdowns = {Tier.DEVICE: device_slowdown, Tier.EDGE: edge_slowdown}
    sizes = tuple(sorted({1, *measuring.fitting(loaded.manifest, (batch,))}))
    measured = measuring.take(loaded, Model(loaded), seconds, sizes).measured
    beliefs = explaining.believed(loaded.manifest, measured, asked, slowdowns)
    found = explaining.explain(beliefs, Policy(policy, min_accuracy, deadline, privacy), batch)
    if as_json:
        print(json.dumps(explaining.as_json(found), indent=2))
    else:
        Console().print(explaining.shown(found))
