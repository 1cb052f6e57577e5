"""`offramp privacy`: what activations give away of the input, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID

from testbed import extras
from testbed.commands import places

EPILOG = "Example: offramp privacy models/digits --splits 4,8 --codecs fp32,int2"


def privacy(
    bundle: Annotated[Path, typer.Argument(help="Directory of a bundle.", metavar="BUNDLE")],
    data: Annotated[Path | None, typer.Option("--data", help="Directory of its data set; digits needs none.")] = None,
    splits: Annotated[
        str | None, typer.Option("--splits", help="Split points, 4,8; none: six of those where cutting can pay.")
    ] = None,
    codecs: Annotated[str, typer.Option("--codecs", help="Codecs to look through.")] = "fp32,int8+zstd,int2",
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of everything drawn.")] = 1,
    out: Annotated[Path, typer.Option("--out", help="Where the picture and the numbers go.")] = Path("out/privacy"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Train decoders that draw the input from what leaves the device; report how like it they are, with a picture."""
    from services.errors import SettingsError

    try:
        from testbed import privacy as measured
    except ImportError as error:
        raise extras.missing("training decoders", error) from None
    points = None
    if splits is not None:
        if not all(part.strip().isdecimal() for part in splits.split(",")):
            raise SettingsError("--splits: give split points as numbers, e.g. 4,8")
        points = [int(part) for part in splits.split(",")]
    places.folder(out)
    console = Console(stderr=as_json)
    with Progress(console=console) as progress:
        bar: list[TaskID] = []
        found = measured.study(
            bundle,
            data,
            points,
            codecs.split(","),
            seed,
            lambda steps: bar.append(progress.add_task("training decoders", total=steps)),
            lambda: progress.advance(bar[0]),
        )
    (out / "privacy.json").write_text(json.dumps(measured.as_json(found), indent=2) + "\n")
    measured.picture(found, out / "privacy.png")
    if as_json:
        print(json.dumps(measured.as_json(found), indent=2))
    else:
        console.print(measured.shown(found))
        wrote = f"{out / 'privacy.png'}: what was drawn; {out / 'privacy.json'}: the numbers"
        console.print(wrote, markup=False, soft_wrap=True)
