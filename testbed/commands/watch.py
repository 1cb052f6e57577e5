"""`offramp watch`: the live console at a terminal."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from services.errors import InvalidInput
from testbed.commands.waiting import wait_for

EPILOG = "Example: offramp watch --target 127.0.0.1:8000"


def watch(
    target: Annotated[str, typer.Option("--target", help="The device agent's console, HOST:PORT.")] = "127.0.0.1:8000",
    model: Annotated[str, typer.Option("--model", help="Which model, NAME:VERSION; none: the first.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print JSON instead of tables.")] = False,
) -> None:
    """Show tiers, links, plan and the last requests of a running device agent, once a second until Ctrl-C."""
    from testbed import watch as watching

    if as_json and not once:
        raise InvalidInput("--json prints one look; give --once as well")
    watched, console = watching.Watched(target, model), Console()
    if not once:
        wait_for(watching.watch(watched, console))
        return
    found = wait_for(watching.once(watched))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        console.print(watching.shown(found))
