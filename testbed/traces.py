"""How fast a link is over time: a constant rate, or a recorded trace that loops.

Two file formats are read, told apart by their content:

- mahimahi (Netravali et al., "Mahimahi: Accurate Record-and-Replay for HTTP", USENIX ATC 2015, section 3.3):
  each line is the millisecond at which one 1500-byte packet could leave; the trace repeats at its last line.
- csv with the header ``t_s,mbps``: megabits per second in bins of one second; it repeats after its last bin.

Seconds count from the start of the trace, rates are bytes per second.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

PACKET_BYTES = 1500
_LONGEST_HEADER = 64
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_BYTES_PER_SECOND = 12.5e9  # 100 Gbit/s
BITS_PER_UNIT = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
SECONDS_PER_UNIT = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
CSV_HEADER = "t_s,mbps"


class TraceError(ValueError):
    """A trace file that cannot be used; the sentence names the file, the line and the reason."""


class QuantityError(ValueError):
    """A rate or a duration that cannot be read."""


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """The same rate at all times. Raises QuantityError unless 0 < bytes_per_second <= 100 Gbit/s."""

    bytes_per_second: float

    def __post_init__(self) -> None:
        if not 0 < self.bytes_per_second <= MAX_BYTES_PER_SECOND:
            raise QuantityError("A rate must be above 0 and at most 100gbit; cut the link to stop it.")

    @property
    def label(self) -> str:
        """The rate as `parse_rate` reads it."""
        return format_rate(self.bytes_per_second)

    def rate_at(self, seconds: float) -> float:
        return self.bytes_per_second

    def capacity(self, start_s: float, end_s: float) -> float:
        """Bytes that can be serialised between two points in time."""
        return max(0.0, end_s - start_s) * self.bytes_per_second

    def finish(self, start_s: float, nbytes: float) -> float:
        """When the last of nbytes has been serialised if the first starts at start_s."""
        return start_s + nbytes / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class RateTrace:
    """A rate that follows a recording and loops: bytes carried so far, linear between `edges` (seconds).

    `edges` and `levels` both start at 0; edges increase strictly, levels never decrease and end above 0.
    Raises TraceError where they do not.
    """

    edges: tuple[float, ...] = field(repr=False)
    levels: tuple[float, ...] = field(repr=False)
    name: str = "trace"

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.levels) or len(self.edges) < 2 or self.edges[0] or self.levels[0]:
            raise TraceError(f"{self.name}: a trace needs matching edges and levels that start at 0.")
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise TraceError(f"{self.name}: time must increase strictly.")
        if any(a > b for a, b in zip(self.levels, self.levels[1:], strict=False)):
            raise TraceError(f"{self.name}: a rate is negative.")
        if not 0 < self.levels[-1] < math.inf:
            raise TraceError(f"{self.name}: the rate is zero everywhere, so nothing would ever arrive.")

    @classmethod
    def from_rates(cls, rates: Sequence[float], bin_seconds: float = 1.0, name: str = "trace") -> RateTrace:
        """A trace from bytes per second in bins of equal width."""
        levels = [0.0]
        for rate in rates:
            levels.append(levels[-1] + rate * bin_seconds)
        return cls(tuple(i * bin_seconds for i in range(len(levels))), tuple(levels), name)

    @property
    def label(self) -> str:
        return f"trace:{self.name}"

    @property
    def duration_seconds(self) -> float:
        """Length of one loop."""
        return self.edges[-1]

    def rate_at(self, seconds: float) -> float:
        """Bytes per second at a point in time (0 in an outage)."""
        _, offset = self._loop(seconds)
        i = min(bisect_right(self.edges, offset), len(self.edges) - 1)
        return (self.levels[i] - self.levels[i - 1]) / (self.edges[i] - self.edges[i - 1])

    def capacity(self, start_s: float, end_s: float) -> float:
        """Bytes that can be serialised between two points in time."""
        first, start = self._loop(start_s)
        last, end = self._loop(max(start_s, end_s))
        return max(0.0, (last - first) * self.levels[-1] + self._level(end) - self._level(start))

    def finish(self, start_s: float, nbytes: float) -> float:
        """The first moment at which nbytes have been serialised when starting at start_s; waits out outages."""
        if nbytes <= 0:
            return start_s
        loop, offset = self._loop(start_s)
        more, rest = divmod(self._level(offset) + nbytes, self.levels[-1])
        if rest == 0:  # exactly full: the end of that loop, not the far side of an outage that may follow
            more, rest = more - 1, self.levels[-1]
        i = max(1, bisect_left(self.levels, rest))
        share = (rest - self.levels[i - 1]) / (self.levels[i] - self.levels[i - 1])
        within = self.edges[i - 1] + share * (self.edges[i] - self.edges[i - 1])
        return max(start_s, (loop + more) * self.duration_seconds + within)

    def _loop(self, seconds: float) -> tuple[float, float]:
        return divmod(max(0.0, seconds), self.duration_seconds)

    def _level(self, offset: float) -> float:
        i = min(bisect_right(self.edges, offset), len(self.edges) - 1)
        share = (offset - self.edges[i - 1]) / (self.edges[i] - self.edges[i - 1])
        return self.levels[i - 1] + share * (self.levels[i] - self.levels[i - 1])


Rate = ConstantRate | RateTrace


def rate_lately(rate: Rate, seconds: float, width_seconds: float = 0.2) -> float:
    """Mean bytes per second up to a point in time: of packets, what is between two is no outage."""
    start = max(0.0, seconds - width_seconds)
    return rate.capacity(start, start + width_seconds) / width_seconds


def parse_rate(text: str) -> float:
    """``20mbit`` (bit, kbit, mbit, gbit) as bytes per second. Raises QuantityError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)bit", text.strip().lower(), re.ASCII)
    rate = float(found[1]) * BITS_PER_UNIT[found[2]] / 8 if found else 0.0
    if not 0 < rate <= MAX_BYTES_PER_SECOND:
        raise QuantityError(f"{text[:40]!r} is not a rate: write it like 20mbit (kbit, mbit, gbit), above 0.")
    return rate


def parse_duration(text: str) -> float:
    """``10ms`` (us, ms, s) as seconds. Raises QuantityError."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)(us|ms|s)", text.strip().lower(), re.ASCII)
    if not found:
        raise QuantityError(f"{text[:40]!r} is not a duration: write it like 10ms (us, ms, s).")
    return float(found[1]) * SECONDS_PER_UNIT[found[2]]


def format_rate(bytes_per_second: float) -> str:
    """The shortest text that `parse_rate` reads as this rate, to 12 digits."""
    bits = bytes_per_second * 8
    unit = next((u for u in "gmk" if bits >= BITS_PER_UNIT[u]), "")
    return f"{bits / BITS_PER_UNIT[unit]:.12g}{unit}bit"


def format_duration(seconds: float) -> str:
    """Milliseconds as `parse_duration` reads them, to the nanosecond."""
    return f"{seconds * 1e3:.6f}".rstrip("0").rstrip(".") + "ms"


def read_rate(text: str) -> Rate:
    """``20mbit`` or ``trace:PATH``. Raises QuantityError or TraceError."""
    if text.startswith("trace:"):
        return read_trace(Path(text.removeprefix("trace:")))
    return ConstantRate(parse_rate(text))


def read_trace(path: Path) -> RateTrace:
    """Read a mahimahi or ``t_s,mbps`` file. Raises TraceError with the file, the line and the reason."""
    lines = [(n, line.strip()) for n, line in enumerate(_text(path).splitlines(), 1) if line.strip()]
    if not lines:
        raise TraceError(f"{path}: the trace is empty.")
    if _is_header(lines[0][1]):
        return _read_csv(path, lines[1:])
    if _is_whole(lines[0][1]):
        return _read_mahimahi(path, lines)
    raise TraceError(f"{path}: not a trace; expected one millisecond per line (mahimahi) or the header {CSV_HEADER}.")


def name_of(path: Path) -> str:
    """What a trace is called in reports."""
    return path.name.removesuffix(".csv")


def is_trace(path: Path) -> bool:
    """Whether the file begins like a trace of one of the two kinds, whatever comes then."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            lines = islice(iter(lambda: file.readline(_LONGEST_HEADER), ""), MAX_FILE_BYTES)
            first = next((text for line in lines if (text := line.strip())), "")
    except OSError:
        return False
    return _is_header(first) or _is_whole(first)


def _is_header(line: str) -> bool:
    return line.replace(" ", "").lower() == CSV_HEADER


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise TraceError(f"{path}: a trace may have at most {MAX_FILE_BYTES} bytes.")
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise TraceError(f"{path}: the trace cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a trace; the file is not text.") from error


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 12


def _read_csv(path: Path, lines: list[tuple[int, str]]) -> RateTrace:
    if not lines:
        raise TraceError(f"{path}: the trace has a header and no rows.")
    rows = [_csv_row(path, number, line) for number, line in lines]
    for i, (number, _) in enumerate(lines):
        if abs(rows[i][0] - rows[0][0] - i) > 1e-3:
            raise TraceError(f"{path}, line {number}: t_s must grow by one second per row.")
    if not any(mbps for _, mbps in rows):
        raise TraceError(f"{path}: the rate is zero everywhere, so nothing would ever arrive.")
    return RateTrace.from_rates([mbps * 1e6 / 8 for _, mbps in rows], name=path.name)


def _csv_row(path: Path, number: int, line: str) -> tuple[float, float]:
    try:
        second, mbps = (float(cell) for cell in line.split(","))
    except ValueError as error:
        raise TraceError(f"{path}, line {number}: expected two numbers, {CSV_HEADER}.") from error
    if not (math.isfinite(second) and 0 <= mbps <= MAX_BYTES_PER_SECOND * 8 / 1e6):
        raise TraceError(f"{path}, line {number}: mbps must be between 0 and 100000.")
    return second, mbps


def _read_mahimahi(path: Path, lines: list[tuple[int, str]]) -> RateTrace:
    last = 0
    for number, line in lines:
        if not _is_whole(line) or int(line) < last:
            raise TraceError(f"{path}, line {number}: expected a millisecond that is not before {last}.")
        last = int(line)
    if last == 0:
        raise TraceError(f"{path}: the trace ends at millisecond 0, so its rate is not defined.")
    packets = Counter(max(1, int(line)) for _, line in lines)
    ends, levels = [0], [0]
    for end, count in packets.items():  # in the order of the file; a packet fills the millisecond before it
        if end - 1 > ends[-1]:
            ends.append(end - 1)
            levels.append(levels[-1])
        ends.append(end)
        levels.append(levels[-1] + count * PACKET_BYTES)
    return RateTrace(tuple(end / 1e3 for end in ends), tuple(map(float, levels)), path.name)
