"""The live view of a chaos run: how far, what is being done to whom, and how requests end meanwhile."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from services.domain import Clock, Tier
from testbed.chaos.history import Ending, Record
from testbed.chaos.schedule import Fault, Target

_LATELY_SECONDS = 3.0
_BAR = 40


@dataclass(slots=True)
class Progress:
    """Told of each request and each fault; rich draws it."""

    seconds: float
    clock: Clock = time.monotonic
    began: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    faults: dict[Target, Fault] = field(default_factory=dict)
    done: int = 0
    lately: deque[Record] = field(default_factory=lambda: deque(maxlen=4000))

    def ended(self, record: Record) -> None:
        self.counts[record.ending] += 1
        if record.reason:
            self.counts["degraded"] += 1
        self.lately.append(record)

    def fault(self, fault: Fault, begins: bool) -> None:
        if begins:
            self.faults[fault.target] = fault
        else:
            self.faults.pop(fault.target, None)
            self.done += 1

    def __rich__(self) -> Group:
        now = self.clock() - self.began
        full = round(_BAR * min(now / self.seconds, 1))
        bar = Text.assemble(("━" * full, "green"), ("━" * (_BAR - full), "dim"), f" {now:.0f} of {self.seconds:.0f} s")
        going = ", ".join(f"{fault.action} {fault.target}" for fault in self.faults.values())
        what = Text(f"now: {going}" if going else "now: nothing is done to anyone", "bold red" if going else "green")
        ended = Text(
            f"{self.counts[Ending.ANSWERED]} answered, {self.counts['degraded']} of them degraded, "
            f"{self.counts[Ending.FAILED]} failed, {self.counts[Ending.CANCELLED]} left; {self.done} faults undone"
        )
        return Group(bar, what, ended, self._recent(now))

    def _recent(self, now: float) -> Table:
        recent = [r for r in self.lately if r.ended > now - _LATELY_SECONDS and r.ending is Ending.ANSWERED]
        table = Table(f"last {_LATELY_SECONDS:.0f} s", "answers", "p50 ms", "max ms", box=None)
        for tier in Tier:
            seconds = [1000 * r.seconds for r in recent if max(r.answers[-1].tiers) == tier]
            shown = (f"{np.median(seconds):.0f}", f"{max(seconds):.0f}") if seconds else ("–", "–")
            table.add_row(tier.label, str(len(seconds)), *shown)
        return table
