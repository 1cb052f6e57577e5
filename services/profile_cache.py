"""What was measured of this machine, kept for the next start. A file that is not as expected counts as none.

Kept are the times of the machine as it is: a tier that emulates a slower one scales them when it loads them, so that
all tiers on one machine share an entry. Files hold numbers only, and are believed no further than that.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import onnxruntime as ort
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services import codec
from services.domain import CodecCost, Segment, SegmentTime
from services.hardware import Hardware, cores
from services.profile import Measured

NOWHERE = "-"
_MAX_BYTES = 4 << 20
_MAX_ENTRIES = 20_000
_MAX_SPLIT_POINT = 1 << 20

SplitPoint = Annotated[int, Field(ge=0, le=_MAX_SPLIT_POINT)]
Seconds = Annotated[float, Field(ge=0, le=3600)]
Ratio = Annotated[float, Field(ge=0, le=100)]


@dataclass(frozen=True, slots=True)
class Machine:
    """All that decides what a run takes, besides the model.

    cores: fewer, and fractions of one, where a container may spend less. providers: separated by commas.
    """

    processor: str
    cores: float
    onnxruntime: str
    threads: int
    spinning: bool = False
    providers: str = "cpu"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    format_version: Literal[1] = 1
    model_hash: str
    machine: Machine
    segments: tuple[tuple[SplitPoint, SplitPoint, Annotated[int, Field(ge=1)], Seconds], ...] = Field(
        max_length=_MAX_ENTRIES
    )
    codecs: tuple[tuple[str, Seconds, Seconds, Ratio], ...] = Field(max_length=_MAX_ENTRIES)


@dataclass(frozen=True, slots=True)
class ProfileCache:
    """One JSON file per model and machine in `directory`; None keeps nothing."""

    directory: Path | None

    def load(self, model_hash: str, machine: Machine) -> Measured | None:
        """What was kept, or None where there is nothing, or nothing that can be believed."""
        file = self._file(model_hash, machine)
        if file is None:
            return None
        try:
            if not file.is_file():  # a pipe would keep the start waiting
                return None
            with file.open("rb") as opened:
                data = opened.read(_MAX_BYTES + 1)
            entry = _Entry.model_validate_json(data) if len(data) <= _MAX_BYTES else None
        except (OSError, ValidationError):
            return None
        if entry is None or (entry.model_hash, entry.machine) != (model_hash, machine):
            return None
        return _measured(entry)

    def store(self, model_hash: str, machine: Machine, measured: Measured) -> bool:
        """Writes the entry at once, so that a reader never sees half of one; False where that cannot be done."""
        file = self._file(model_hash, machine)
        if file is None:
            return False
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(_entry(model_hash, machine, measured).model_dump_json(), encoding="utf-8")
            draft.replace(file)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            return False
        return True

    def _file(self, model_hash: str, machine: Machine) -> Path | None:
        if self.directory is None:
            return None
        key = json.dumps([model_hash, asdict(machine)], sort_keys=True)
        return self.directory / f"profile-{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def directory(asked: str | None) -> Path | None:
    """Where to keep profiles: as asked, or the user's cache directory where there is one; '-' or '' is nowhere."""
    if asked is not None:
        return None if asked in ("", NOWHERE) else Path(asked)
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "offramp"
    try:
        return Path.home() / ".cache" / "offramp"
    except RuntimeError:  # a container whose user has no home
        return None


def this_machine(hardware: Hardware) -> Machine:
    """The machine this process runs on, and what runs use of it."""
    used = hardware.threads, hardware.spinning, ",".join(hardware.providers)
    return Machine(_processor(), round(cores(), 2), ort.__version__, *used)


def _processor() -> str:
    """The model name of the processor where the system tells, else its architecture."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
            found = next(names, "")
    except OSError:
        found = ""
    return (found or platform.processor() or platform.machine())[:200]


def _entry(model_hash: str, machine: Machine, measured: Measured) -> _Entry:
    return _Entry(
        model_hash=model_hash,
        machine=machine,
        segments=tuple((t.segment.start, t.segment.end, t.batch_size, t.seconds) for t in measured.segments),
        codecs=tuple((c.codec, c.encode_seconds_per_byte, c.decode_seconds_per_byte, c.ratio) for c in measured.codecs),
    )


def _measured(entry: _Entry) -> Measured | None:
    """None for an entry whose segments are none, or whose codecs this release does not have."""
    if any(start >= end for start, end, _, _ in entry.segments) or not entry.segments:
        return None
    if not {name for name, *_ in entry.codecs} <= set(codec.NAMES):
        return None
    return Measured(
        tuple(SegmentTime(Segment(start, end), size, seconds) for start, end, size, seconds in entry.segments),
        tuple(CodecCost(*each) for each in entry.codecs),
    )
