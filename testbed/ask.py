"""`offramp infer`: files to a running device agent, and its answers as a person reads them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from device_agent.client import AsyncClient, Prediction
from device_agent.inputs import read
from services.errors import DeadlineExceeded, InvalidInput, NotImplementedHere, Unavailable
from testbed import nobody

_STAGES = ("queue", "decode", "compute", "encode", "network")
_COLOURS = {"queue": "red", "decode": "cyan", "compute": "green", "encode": "blue", "network": "yellow"}
_WIDTH = 36
Asked = tuple[Path, list[Prediction]]


async def ask(
    target: str,
    model: str,
    files: list[Path],
    timeout_seconds: float,
    credentials: grpc.ChannelCredentials | None = None,
    token: str | None = None,
) -> list[Asked]:
    """One request per file. Raises InvalidInput for a file that cannot be read or does not fit the model."""
    for file in files:
        if not file.is_file():
            raise InvalidInput(f"{file}: {'a directory, give files' if file.is_dir() else 'no such file'}")
    found: list[Asked] = []
    async with AsyncClient(target, timeout_seconds, credentials, token) as client:
        try:
            info = await client.model(model)
        except NotImplementedHere:
            raise InvalidInput(
                f"{target} is not a device agent; give --target the address of its public door"
            ) from None
        except (Unavailable, DeadlineExceeded):
            reason = await asyncio.to_thread(nobody.why, target, credentials)
            raise Unavailable(f"no device agent answers at {target}: {reason}") from None
        for file in files:
            samples, name = read(file, info)
            try:
                found.append((file, await client.infer(info.name, samples, name, _id_of(file), trace=True)))
            except DeadlineExceeded:
                raise DeadlineExceeded(f"{file}: no answer within {timeout_seconds} s; give more --timeout") from None
    return found


def _id_of(file: Path) -> str:
    return file.name.encode(errors="replace").decode()[:100]


def as_json(file: Path, answer: Prediction) -> dict[str, Any]:
    """One answer as JSON values."""
    return {
        "file": str(file),
        **asdict(answer),
        "scores": [round(float(score), 6) for score in answer.scores],
        "tier": answer.tier.label,
    }


def shown(file: Path, answers: list[Prediction]) -> Group:
    """A line for each sample of the file, then the waterfall of the request they shared."""
    trace = answers[0].trace
    return Group(*(_line(file, answer) for answer in answers), waterfall(trace) if trace else "", "")


def _line(file: Path, answer: Prediction) -> str:
    mark = f"  [red]degraded: {answer.degraded_reason}[/]" if answer.degraded else ""
    return (
        f"[bold]{escape(file.name)}[/]  label [bold]{answer.label}[/]  confidence {answer.confidence:.4f}  "
        f"tier [bold]{answer.tier.label}[/]  {_exit(answer)}{mark}"
    )


def _exit(answer: Prediction) -> str:
    """By its name, which comes with the answer to one sample; of more, by its number."""
    return f"{escape(answer.exit_name)} exit" if answer.exit_name else f"exit {answer.exit_index}"


def waterfall(trace: dict[str, Any]) -> Table:
    """Where the time went: one bar per stage that took any, in order, each starting where the last ended."""
    table = Table("tier", "stage", "ms", "", "bytes up", box=None, pad_edge=False)
    total, at = trace["seconds"] or 1.0, 0.0
    for hop in trace["hops"]:
        for stage in _STAGES:
            seconds = hop[f"{stage}_seconds"]
            if seconds > 0.0005 * total:
                bytes_up = f"{hop['bytes_up']:,}" if stage == "network" else ""
                table.add_row(hop["tier"], stage, f"{1000 * seconds:.2f}", _bar(at, seconds, total, stage), bytes_up)
            at += seconds
    table.add_row("", "all", f"{1000 * total:.2f}", "", "")
    return table


def _bar(at: float, seconds: float, total: float, stage: str) -> str:
    start = min(round(_WIDTH * at / total), _WIDTH - 1)
    length = max(round(_WIDTH * seconds / total), 1)
    return " " * start + f"[{_COLOURS[stage]}]{'█' * min(length, _WIDTH - start)}[/]"
