"""`offramp partition`: every place where a network can be split, and the bundle that splits there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from services.errors import InvalidInput
from testbed.commands import places

if TYPE_CHECKING:
    from testbed.adopt import Adopted

EPILOG = "Example: offramp partition --network efficientnet-b0 --exits 2,5 --out models/b0"


def partition(
    model: Annotated[Path | None, typer.Argument(help="An ONNX classifier.", metavar="[MODEL.onnx]")] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="Instead of a file: a published network, e.g. efficientnet-b0.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Directory of the bundle to write.")] = Path("out/bundle"),
    exits: Annotated[
        str | None, typer.Option("--exits", help="With --network: blocks, from 1, that an exit follows, e.g. 2,5.")
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=2, max=100_000, help="With --network; none: as published.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=2**32 - 1, help="With --network: seed of its random weights; none: 0."),
    ] = None,
    output: Annotated[str | None, typer.Option("--output", help="The output to keep, where there are several.")] = None,
    mean: Annotated[str | None, typer.Option("--mean", help="Per channel, of pixels in 0..1; with --std.")] = None,
    std: Annotated[str | None, typer.Option("--std", help="Per channel, of pixels in 0..1; with --mean.")] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Photos to measure bytes on: a file or a directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Find every place where a classifier can be split, and write it as a bundle. No retraining."""
    from testbed import adopt, inspection

    if network is None and model is not None and not any(each is not None for each in (exits, classes, seed)):
        places.folder(out, keep=False)
        adopted = adopt.adopt(model, out, output, adopt.preprocessing(mean, std), images)
    elif network is not None and model is None and output is mean is std is None:
        places.folder(out, keep=False)
        adopted = adopt.adopt_network(network, out, _numbers(exits), classes, seed or 0, images)
    else:
        raise InvalidInput(
            "give MODEL.onnx, with --output, --mean and --std as needed, or --network NAME with --exits, --classes "
            "and --seed"
        )
    if as_json:
        print(json.dumps(inspection.as_json(out) | _remarks(adopted), indent=2))
        return
    console = Console()
    console.print(inspection.shown(out))
    for note in (*adopted.notes, adopted.measured_on):
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"wrote {out}; serve it with: offramp up --bundle {out}", markup=False, soft_wrap=True)


def _remarks(adopted: Adopted) -> dict[str, object]:
    return {"notes": adopted.notes, "measured_on": adopted.measured_on}


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InvalidInput(f"--exits takes numbers of blocks, e.g. 2,5; got {text!r}") from None
