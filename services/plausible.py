"""Which measured times of heads and tails cannot be: on a machine that does other things, too, some come out too long.

A longer head holds a shorter one, and the whole network its head and its tail. A cut may undo a fusion or turn a layout
back, which makes a shorter head a little longer than a longer one; never by much.
"""

from __future__ import annotations

from collections.abc import Mapping

from services.domain import Segment

TOO_LONG = 1.2
"""Times what it can at most be without what a cut costs."""


def implausible(seconds: Mapping[tuple[Segment, int], float], last: int) -> list[tuple[int, int]]:
    """Split points, with the batch size, around which a head or a tail took much longer than one that holds it, or the
    whole network, at its end, than a head and a tail of it together. seconds: by segment and batch size."""
    found = []
    for size in sorted({size for _, size in seconds}):
        heads = {s.end: took for (s, n), took in seconds.items() if n == size and s.start == 0}
        tails = {s.start: took for (s, n), took in seconds.items() if n == size and s.end == last}
        both = [heads[at] + tails[at] for at in heads.keys() & tails.keys() if at < last]
        doubted = _shorter_but_slower(sorted(heads.items(), reverse=True)) | _shorter_but_slower(sorted(tails.items()))
        if last in heads and both and heads[last] > TOO_LONG * min(both):
            doubted.add(last)
        found += [(at, size) for at in sorted(doubted - {0})]
    return found


def _shorter_but_slower(longest_first: list[tuple[int, float]]) -> set[int]:
    """Where one took much longer than one before it."""
    least, found = float("inf"), set()
    for at, took in longest_first:
        if took > TOO_LONG * least:
            found.add(at)
        least = min(least, took)
    return found
