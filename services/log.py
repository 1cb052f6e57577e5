"""JSON lines on standard error, with the request id and the tier. Tensors are never logged."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from services.domain import Predictions, Tier, Trace

_log = logging.getLogger("offramp")


class _JsonLine(logging.Formatter):
    def __init__(self, tier: str):
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "tier": self._tier,
            "event": record.getMessage(),
        }
        if requests := getattr(record, "requests", ()):
            start = json.dumps(line)[:-1]
            return "\n".join(f"{start}, {each}}}" for each in requests)
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(tier: str, level: str) -> None:
    """Sends Offramp's log to standard error as JSON lines."""
    logging._srcfile = None  # the documented way to skip looking up the caller
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine(tier))
    _log.handlers[:] = [handler]
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
        _log.log(logging.INFO, "request", extra={"requests": [_fields(*each) for each in ended]})


def _fields(request_id: str, tier: Tier, answers: Predictions, trace: Trace) -> str:
    """As JSON without its braces; written out, as these are most of all lines."""
    tiers, reasons = answers.tiers.tolist(), answers.reasons.tolist()
    return (
        f'"request_id": {json.dumps(request_id)}, "samples": {len(tiers)}, "answered_here": {tiers.count(tier)}, '
        f'"degraded": {len(reasons) - reasons.count(0)}, "milliseconds": {round(1000 * trace.seconds, 3)}'
    )


def refused(request_id: str, reason: str, message: str) -> None:
    """A request that ended with an error."""
    event("refused", request_id=request_id[:100], reason=reason, message=message[:500])
