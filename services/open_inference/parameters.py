"""What a request's parameters ask for. Unknown names are passed over, since the protocol defines none, and named
in the answer, since they may be misspelt.

Clients differ in the kinds they can send: a number may come as double, int64, uint64 or text, a yes as bool or text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from services.bundle import Manifest
from services.domain import Objective
from services.errors import InvalidInput
from services.front import NO_WISHES, Wishes

EMPTY_FINAL = "triton_enable_empty_final_response"

KNOWN = frozenset(
    (
        *("exit_threshold", "max_exit", "policy", "min_accuracy", "privacy", "split"),
        *("timeout", "priority", "trace", EMPTY_FINAL),
    )
)
IGNORED = "ignored_parameters"
_MOST_IGNORED, _LONGEST_IGNORED = 16, 64

_YES_NO = {"true": True, "false": False}
_MAX_MICROSECONDS = 1 << 53
_WHOLE = ("int64_param", "uint64_param")
_STEPS = 1000  # of accuracy: requests that ask for almost the same share a plan

Given = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parameters:
    """wishes: for the front. timeout_seconds: at most so long, None as long as any.

    trace: whether to return it. ignored: the names that mean nothing here, for the answer.
    """

    wishes: Wishes
    timeout_seconds: float | None
    trace: bool
    ignored: str = ""


_NONE = Parameters(NO_WISHES, None, False)


def read(given: Given, manifest: Manifest) -> Parameters:
    """The parameters of a ModelInferRequest. Raises InvalidInput naming the one that is wrong and what it takes."""
    if not given:
        return _NONE
    _flag(given, EMPTY_FINAL)  # the last answer says itself that it is, so that an empty one need never follow
    return Parameters(
        _wishes(given, manifest),
        _timeout(given),
        _flag(given, "trace"),
        _ignored(given),
    )


def _wishes(given: Given, manifest: Manifest) -> Wishes:
    return Wishes(
        _thresholds(given, manifest),
        _policy(given),
        _floor(given),
        _flag(given, "privacy"),
        _split(given),
        priority=_whole(given, "priority", (1 << 64) - 1, "a whole number from 0; 0 is none, 1 the highest") or 0,
    )


def _ignored(given: Given) -> str:
    """The unknown names, separated by commas: 16 at most, of 64 characters each, ? for what cannot be shown."""
    unknown = islice((name[:_LONGEST_IGNORED] for name in given if name not in KNOWN), _MOST_IGNORED)
    return ",".join("".join(c if c.isprintable() and c != "," else "?" for c in name) for name in sorted(unknown))


def _thresholds(given: Given, manifest: Manifest) -> tuple[float, ...] | None:
    """`exit_threshold` for every exit but the last, which always answers, as does the one at `max_exit`."""
    last = len(manifest.exits) - 1
    asked = _number(given, "exit_threshold", 2, "between 0 (always leave) and 2 (above 1: never leave)")
    furthest = _whole(given, "max_exit", last, f"a whole number from 0 to {last}, the last exit")
    if asked is None and furthest is None:
        return None
    own = (spec.threshold for spec in manifest.exits)
    wanted = own if asked is None else (asked for _ in manifest.exits)
    return tuple(0.0 if at >= (last if furthest is None else furthest) else value for at, value in enumerate(wanted))


def _policy(given: Given) -> Objective | None:
    if "policy" not in given:
        return None
    try:
        return Objective(_text(given["policy"]) or "")
    except ValueError:
        raise _wrong("policy", f"one of {', '.join(Objective)}") from None


def _floor(given: Given) -> float | None:
    asked = _number(given, "min_accuracy", 1, "between 0 and 1")
    return None if asked is None else min(math.ceil(asked * _STEPS) / _STEPS, 1.0)


def _split(given: Given) -> tuple[int, int] | None:
    if "split" not in given:
        return None
    parts = (_text(given["split"]) or "").split(",")
    numbers = [int(part) for part in parts if part.strip().isascii() and part.strip().isdecimal() and len(part) < 10]
    if len(parts) != 2 or len(numbers) != 2:
        raise _wrong("split", "two split points such as '8,14'")
    return numbers[0], numbers[1]


def _timeout(given: Given) -> float | None:
    """Seconds; none for 0, which is what clients send who set none."""
    asked = _whole(given, "timeout", _MAX_MICROSECONDS, "a whole number of microseconds from 0; 0 is none")
    return asked / 1e6 if asked else None


def _number(given: Given, name: str, most: float, takes: str) -> float | None:
    """A number from 0 to `most`, None where it is not given."""
    if name not in given:
        return None
    kind = given[name].WhichOneof("parameter_choice")
    try:
        value = math.nan if kind in (None, "bool_param") else float(getattr(given[name], kind))
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise _wrong(name, takes)
    return value


def _whole(given: Given, name: str, most: int, takes: str) -> int | None:
    """A whole number from 0 to `most`, None where it is not given."""
    if name in given and (kind := given[name].WhichOneof("parameter_choice")) in _WHOLE:
        whole = int(getattr(given[name], kind))  # as a float it would lose what 53 bits do not hold
        if not 0 <= whole <= most:
            raise _wrong(name, takes)
        return whole
    value = _number(given, name, most, takes)
    if value is None:
        return None
    if not value.is_integer():
        raise _wrong(name, takes)
    return int(value)


def _flag(given: Given, name: str) -> bool:
    """A yes or no; no where it is not given."""
    if name not in given:
        return False
    if given[name].WhichOneof("parameter_choice") == "bool_param":
        return bool(given[name].bool_param)
    found = _YES_NO.get((_text(given[name]) or "").lower())
    if found is None:
        raise _wrong(name, "true or false")
    return found


def _text(parameter: Any) -> str | None:
    """None for what is no text."""
    return parameter.string_param if parameter.WhichOneof("parameter_choice") == "string_param" else None


def _wrong(name: str, takes: str) -> InvalidInput:
    return InvalidInput(f"{name} must be {takes}")
