"""JSON lines on standard error, with the request id and the tier. Tensors are never logged."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

from services.domain import DegradedReason, Tier
from services.response import Predictions, Trace

_log = logging.getLogger("offramp")


class _JsonLine(logging.Formatter):
    def __init__(self, tier: str):
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        line = self.begun(record.created, record.levelname.lower(), record.getMessage())
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)

    def begun(self, at: float, level: str, event: str) -> dict[str, Any]:
        """What every line begins with."""
        moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
        return {"time": moment, "level": level, "tier": self._tier, "event": event}


class _Stream(logging.StreamHandler[TextIO]):
    """Standard error. Requests have most of the lines: they are written past `logging`, which takes longer for each."""

    def __init__(self, stream: TextIO, lines: _JsonLine):
        super().__init__(stream)
        self.setFormatter(lines)
        self._lines = lines

    def requests(self, ended: Iterable[str]) -> None:
        """A line for each of several requests, written at once."""
        start = json.dumps(self._lines.begun(time.time(), "info", "request"))[:-1]
        text = "".join([f"{start}, {each}}}\n" for each in ended])
        self.acquire()
        try:
            self.stream.write(text)
            self.flush()
        except (OSError, ValueError):  # nobody reads it any more
            pass
        finally:
            self.release()


def configure(tier: str, level: str) -> None:
    """Sends Offramp's log to standard error as JSON lines; nowhere where that was closed before the start."""
    logging._srcfile = None  # the documented way to skip looking up the caller
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    _log.handlers[:] = [_Stream(sys.stderr, _JsonLine(tier)) if sys.stderr is not None else logging.NullHandler()]
    _log.setLevel(level.upper())
    _log.propagate = False


def event(name: str, level: int = logging.INFO, exc_info: bool | BaseException = False, **fields: Any) -> None:
    """Logs one event with its fields."""
    _log.log(level, name, extra={"fields": fields}, exc_info=exc_info)


def ended(task: asyncio.Task[Any]) -> None:
    """To be called when a task in the background ends: nobody waits for it, so its error would pass unseen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        event("failed", logging.ERROR, error, task=task.get_name())


def answered_together(ended: Iterable[tuple[str, Tier, Predictions, Trace]]) -> None:
    """A line for each of several requests on this tier, written at once."""
    if _log.isEnabledFor(logging.INFO):
        lines = [_fields(*each) for each in ended]
        for handler in _log.handlers:
            if isinstance(handler, _Stream):
                handler.requests(lines)


def _fields(request_id: str, tier: Tier, answers: Predictions, trace: Trace) -> str:
    """As JSON without its braces; written out, as these are most of all lines."""
    tiers, reasons = answers.tiers.tolist(), answers.reasons.tolist()
    worse = [DegradedReason(reason).label for reason in reasons if reason]
    why = f', "reasons": {json.dumps(Counter(worse))}' if worse else ""
    return (
        f'"request_id": {json.dumps(request_id)}, "samples": {len(tiers)}, "answered_here": {tiers.count(tier)}, '
        f'"degraded": {len(worse)}, "milliseconds": {round(1000 * trace.seconds, 3)}{why}'
    )


def refused(request_id: str, reason: str, message: str) -> None:
    """A request that ended with an error."""
    event("refused", request_id=request_id[:100], reason=reason, message=message[:500])
