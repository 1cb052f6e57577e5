"""`offramp profile`: what the parts of a network, and the codecs, take on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from services.errors import InvalidInput, OfframpError

if TYPE_CHECKING:
    from services.bundle import Bundle, Manifest
    from services.domain import CodecCost, Segment
    from services.hardware import Hardware
    from services.measuring import Findings, Timing
    from services.profile_cache import Machine, ProfileCache

EPILOG = "Example: offramp profile models/digits --seconds 10 --batch 1,8"
_USUAL = (1, 8)
_MAX_BATCH_SIZES = 8
_MAX_BATCH = 4096


def profile(
    bundle: Annotated[Path, typer.Argument(help="Directory of the bundle.", metavar="BUNDLE")],
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=3600, help="Time for measuring runs.")] = 10.0,
    batch: Annotated[
        str | None,
        typer.Option("--batch", help="Batch sizes, the most important first; none: 1,8, as far as they fit."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads of one run.")] = 1,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            envvar="OFFRAMP_PROFILE_CACHE",
            help="Directory that keeps it for tiers; -: nowhere; none: the user's cache directory.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure heads and tails of a bundle's network and its codecs here, and keep it for tiers that start here."""
    from services import profile_cache
    from services.bundle import load
    from services.hardware import Hardware

    loaded = load(bundle)
    sizes = _sizes(loaded.manifest, batch)
    machine = profile_cache.this_machine(hardware := Hardware(threads))
    findings = _measure(loaded, seconds, sizes, hardware)
    store = profile_cache.ProfileCache(profile_cache.directory(cache))
    kept = bool(findings.timings) and _keep(loaded, machine, findings, store)
    if as_json:
        print(json.dumps(as_values(loaded.manifest, machine, findings), indent=2))
    else:
        Console().print(shown(loaded.manifest, findings, sizes))
    _check_measured(loaded.manifest, findings, seconds, sizes, Console(stderr=as_json))
    if store.directory is not None and not kept:
        raise OfframpError(f"{store.directory}: nothing can be kept there; give another --cache, or - for nowhere")
    if kept and not as_json:
        kept_in = f"kept in {store.directory}; tiers with this model and {threads} thread(s) start with it"
        Console().print(kept_in, markup=False, soft_wrap=True)


def _sizes(manifest: Manifest, batch: str | None) -> tuple[int, ...]:
    """All that were named, or the usual ones that fit. Raises InvalidInput where one that was named does not."""
    from services import measuring

    if batch is None:
        return measuring.fitting(manifest, _USUAL)
    named = batch_sizes(batch)
    measuring.fitting(manifest, (max(named),))
    return named


def batch_sizes(text: str) -> tuple[int, ...]:
    """'1,8' as numbers. Raises InvalidInput for what is none, or too many."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= _MAX_BATCH for part in parts) or len(parts) > _MAX_BATCH_SIZES:
        raise InvalidInput(
            f"--batch {text[:40]}: give up to {_MAX_BATCH_SIZES} numbers of at most {_MAX_BATCH}, e.g. 1,8"
        )
    return tuple(dict.fromkeys(map(int, parts)))


def _measure(loaded: Bundle, seconds: float, sizes: tuple[int, ...], hardware: Hardware) -> Findings:
    from services import measuring
    from services.model import Model

    columns = (TextColumn("measuring"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=1.0)
        model = Model(loaded, hardware)
        return measuring.take(loaded, model, seconds, sizes, lambda share: bar.update(task, completed=share))


def _check_measured(
    manifest: Manifest, findings: Findings, seconds: float, sizes: tuple[int, ...], console: Console
) -> None:
    """Says what was not measured. Raises OfframpError where the time sufficed for no segment at all."""
    from services import measuring

    if not findings.timings:
        raise OfframpError(f"--seconds {seconds:g} is too short to measure any segment, so nothing was kept; give more")
    if unknown := measuring.unknown(manifest, findings.measured):
        more = "more --seconds" if 1 in sizes else "1 in --batch"
        console.print(
            f"{len(unknown)} of {manifest.last} split points were not measured with one sample; give {more} for them",
            highlight=False,
        )


def _keep(loaded: Bundle, machine: Machine, findings: Findings, store: ProfileCache) -> bool:
    """Adds the findings to what is kept of this model and machine; whether it is."""
    earlier = store.load(loaded.manifest.model_hash, machine)
    measured = findings.measured if earlier is None else earlier.updated(findings.measured)
    return store.store(loaded.manifest.model_hash, machine, measured)


def as_values(manifest: Manifest, machine: Machine, findings: Findings) -> dict[str, Any]:
    """All that was found, as JSON values; times in seconds."""
    return {
        "model": manifest.name,
        "model_hash": manifest.model_hash,
        "machine": asdict(machine),
        "segments": [
            asdict(each) | each.segment._asdict() | {"segment": str(each.segment)} for each in findings.timings
        ],
        "codecs": [asdict(cost) for cost in findings.codecs],
    }


def shown(manifest: Manifest, findings: Findings, sizes: tuple[int, ...]) -> Group:
    """What was found as tables."""
    return Group(_split_points(manifest, findings.timings, sizes), _codecs(findings.codecs))


def _split_points(manifest: Manifest, timings: list[Timing], sizes: tuple[int, ...]) -> Table:
    """One row per split point: milliseconds of the head before it and the tail after it, and how they spread."""
    from services.domain import Segment

    table = Table(title="Whole heads and tails, medians", title_justify="left")
    table.add_column("split point", justify="right")
    table.add_column("after")
    for size in sizes:
        of_batch = "" if size == 1 else f" ×{size}"
        for column in (f"head{of_batch} ms", "±", f"tail{of_batch} ms", "±"):
            table.add_column(column, justify="right")
    known = {(each.segment, each.batch_size): each for each in timings}
    exits = {spec.split_point: spec.name for spec in manifest.exits}
    for point in manifest.split_points:
        mark = f"  {exits[point.index]} exit" if point.index in exits else ""
        after = Text.assemble(point.after.rsplit("/", 1)[-1], (mark, "bold green"))
        sides = (Segment(0, point.index), Segment(point.index, manifest.last))
        cells = [cell for size in sizes for side in sides for cell in _cells(known.get((side, size)), side)]
        table.add_row(str(point.index), after, *cells)
    return table


def _cells(timing: Timing | None, segment: Segment) -> tuple[str, str]:
    if segment.empty:
        return "", ""
    return ("–", "") if timing is None else (f"{1000 * timing.seconds:.3f}", f"{timing.spread:.0%}")


def _codecs(costs: tuple[CodecCost, ...]) -> Table:
    table = Table(title="Codecs, on an activation of this network", title_justify="left")
    for column in ("codec", "encode ns/B", "decode ns/B", "bytes of 1 fp32 byte"):
        table.add_column(column, justify="left" if column == "codec" else "right")
    for cost in costs:
        encode, decode = 1e9 * cost.encode_seconds_per_byte, 1e9 * cost.decode_seconds_per_byte
        table.add_row(cost.codec, f"{encode:.2f}", f"{decode:.2f}", f"{cost.ratio:.3f}")
    return table
