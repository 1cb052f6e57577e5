"""What the rows of one bundle say: Pareto fronts, and whether activations beat images of the input. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.codec_rows import Mask, Row

MOST_HEAD = 0.9
"""Split points with a larger share of the time before them leave too little to the next tier to count as a split."""
_RIVALS: dict[str, tuple[str, ...]] = {"JPEG": ("jpeg",), "WebP": ("webp",), "lossless": ("png", "pixels+")}

Brief = dict[str, Any] | None


def front(found: Sequence[Row]) -> list[Row]:
    """The rows that no other beats in bytes, time and accuracy at once, the fewest bytes first."""
    ordered = sorted(found, key=lambda row: (row.bytes, row.us, -row.accuracy))
    return [row for index, row in enumerate(ordered) if not any(_beats(other, row) for other in ordered[:index])]


def fronts(found: Sequence[Row]) -> dict[int, list[Row]]:
    """The front at each split point."""
    points = sorted({row.split_point for row in found})
    return {at: front([row for row in found if row.split_point == at]) for at in points}


def verdict(found: Sequence[Row]) -> dict[str, Any]:
    """The fewest bytes of an image of the input and of an activation, at the accuracy of the whole network.

    `within_error`: not worse by more than the 95 % interval of the paired difference; `strict`: not worse on these
    samples at all. `matched`: for every quality of JPEG, the activation with the fewest bytes that is as accurate.
    """
    plain = whole(found).right
    return {
        "samples": len(plain),
        "accuracy": float(plain.mean()),
        "sampling_error": _half_width(plain.astype(float)),
        "within_error": _fewest(found, plain, lambda row: _within(row, plain)),
        "strict": _fewest(found, plain, lambda row: row.accuracy >= plain.mean()),
        "matched": [
            {
                "jpeg": _brief(row, plain),
                "activation": _brief(_least(inner(found), lambda each, r=row: each.accuracy >= r.accuracy), plain),  # type: ignore[misc]
            }
            for row in found
            if row.codec.startswith("jpeg")
        ],
        "never_on_a_front": sorted(
            {row.codec for row in found if row.offered} - {row.codec for at in fronts(found).values() for row in at}
        ),
        "rivals_pay_below_mbit": _break_evens(found),
    }


def whole(found: Iterable[Row]) -> Row:
    """The row of the untouched input."""
    return next(row for row in found if row.split_point == 0 and row.codec == "fp32")


def inner(found: Iterable[Row]) -> list[Row]:
    """What counts as an activation that one might send: behind some of the network, before most of it."""
    return [row for row in found if row.split_point and row.offered and not row.answer and row.head_share <= MOST_HEAD]


def beaten_by_jpeg(found: dict[str, Any]) -> bool:
    """Whether, at equal accuracy in one of the two senses, no activation needs fewer bytes than JPEG of the input."""
    return any(_beaten(found[kind]) for kind in ("within_error", "strict"))


def _beaten(least: Mapping[str, Brief]) -> bool:
    ours, jpeg = least["activation"], least["JPEG"]
    return ours is None or (jpeg is not None and ours["bytes"] >= jpeg["bytes"])


def said(name: str, found: dict[str, Any]) -> str:
    """The verdict in words, also where it is against us."""
    lines = [
        f"{name}: {found['samples']} samples, whole network {found['accuracy']:.2%} ± "
        f"{100 * found['sampling_error']:.2f} points (95 %)"
    ]
    for kind, words in (("within_error", "at equal accuracy within sampling error"), ("strict", "nothing lost")):
        least = found[kind]
        lines += [f"  {words}:", *(f"    {who:<10} {_words(row)}" for who, row in least.items())]
        ours, jpeg = least["activation"], least["JPEG"]
        if ours is None or _beaten(least):
            lines.append("    => no split point and codec needs fewer bytes than JPEG of the input")
        else:
            share = f", {ours['bytes'] / jpeg['bytes']:.0%} of them" if jpeg else "; no JPEG keeps the accuracy"
            at = f"{ours['codec']} at split point {ours['split_point']}"
            lines.append(f"    => {at} needs fewer bytes than JPEG of the input{share}")
    return "\n".join(lines)


def _beats(one: Row, other: Row) -> bool:
    return one.bytes <= other.bytes and one.us <= other.us and one.accuracy >= other.accuracy


def _within(row: Row, plain: Mask) -> bool:
    delta, error = _difference(row, plain)
    return delta + error >= 0


def _difference(row: Row, plain: Mask) -> tuple[float, float]:
    """Accuracy minus that of the whole network on the same samples, and half of its 95 % interval."""
    paired = row.right.astype(float) - plain
    return float(paired.mean()), _half_width(paired)


def _half_width(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(1.96 * values.std() / np.sqrt(len(values)))


def _fewest(found: Sequence[Row], plain: Mask, keeps: Callable[[Row], bool]) -> dict[str, Brief]:
    images = {
        who: _least(found, lambda row, p=prefixes: row.codec.startswith(p) and keeps(row))  # type: ignore[misc]
        for who, prefixes in _RIVALS.items()
    }
    return {who: _brief(row, plain) for who, row in (images | {"activation": _least(inner(found), keeps)}).items()}


def _least(found: Iterable[Row], which: Callable[[Row], bool]) -> Row | None:
    return min(filter(which, found), key=lambda row: row.bytes, default=None)


def _brief(row: Row | None, plain: Mask) -> Brief:
    if row is None:
        return None
    delta, error = _difference(row, plain)
    return {
        "split_point": row.split_point,
        "codec": row.codec,
        "bytes": round(row.bytes, 1),
        "accuracy": row.accuracy,
        "delta": delta,
        "delta_error": error,
        "head_share": round(row.head_share, 3),
    }


def _words(row: Brief) -> str:
    if row is None:
        return "none"
    at = (
        f"at split point {row['split_point']}, behind {row['head_share']:.0%} of the time" if row["split_point"] else ""
    )
    change = f"{100 * row['delta']:+.2f} ± {100 * row['delta_error']:.2f} points"
    return f"{row['bytes']:>6.0f} bytes, {change}: {row['codec']} {at}".rstrip()


def _break_evens(found: Sequence[Row]) -> dict[str, float]:
    """Mbit/s below which a rival's bytes are worth its time against what is offered: the median over split points."""
    rates: dict[str, list[float]] = {}
    for rival in found:
        base = rival.codec.split("+")[0]
        if rival.offered or rival.image:
            continue
        same = [row for row in found if row.split_point == rival.split_point and row.codec.split("+")[0] == base]
        best = min((row for row in same if row.offered), key=lambda row: row.bytes)
        saved, extra = 8 * (best.bytes - rival.bytes), rival.us - best.us
        rates.setdefault(rival.codec, []).append(0.0 if saved <= 0 else saved / extra if extra > 0 else np.inf)
    return {name: round(float(np.median(each)), 3) for name, each in rates.items()}
