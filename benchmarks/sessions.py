"""What each further session of EfficientNet-B0 costs: resident memory, building, running, and requests meanwhile.

Heads [0, k) and tails [k, L) for split points k all over the network, once as onnxruntime makes them by itself
("naive": from the cut's bytes, every weight its own), once on shared weights, as tiers do. Memory is measured in a
process for each kind, with the allocator settings of a tier, after every session has run, and after the allocator has
given back what nobody uses; the session of the whole network is there before. Latencies alternate in one process.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from benchmarks.efficientnet import efficientnet_b0, in_memory
from services import process
from services.bundle import Bundle
from services.domain import Segment
from services.model import Model
from services.partition import Cutter

TARGET_MB = 3.0
TARGET_LATENCY = 1.05
_TIMEOUT_SECONDS = 600.0

Session = Callable[[Segment], ort.InferenceSession]
Found = dict[str, float]


def cuts(last: int, count: int) -> list[Segment]:
    """Heads and tails of `count` split points, spread over the network."""
    points = sorted({int(at) for at in np.linspace(1, last - 1, count).round()})
    return [segment for at in points for segment in (Segment(0, at), Segment(at, last))]


def naive(bundle: Bundle) -> Session:
    """Sessions as onnxruntime makes them of a cut that has its weights in it."""
    manifest = bundle.manifest
    exits = {spec.output: spec.split_point for spec in manifest.exits}
    cutter = Cutter(onnx.load_model_from_string(bundle.graph), manifest.split_points, exits)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def build(segment: Segment) -> ort.InferenceSession:
        return ort.InferenceSession(cutter.cut(segment).SerializeToString(), options, ["CPUExecutionProvider"])

    return build


def shared(bundle: Bundle) -> Session:
    return Model(bundle).session


def memory(build: Session, last: int, count: int) -> Found:
    """Resident MB for each further session, and milliseconds to build one."""
    _run(whole := build(Segment(0, last)))
    before = _resident_mb()
    kept, seconds = [whole], []
    for segment in cuts(last, count):
        started = time.perf_counter()
        kept.append(build(segment))
        seconds.append(time.perf_counter() - started)
        _run(kept[-1])
    grown = (_resident_mb() - before) / len(seconds)
    milliseconds = 1e3 * np.array(seconds)
    return {
        "sessions": len(seconds),
        "base_mb": round(before, 1),
        "mb_per_session": round(grown, 3),
        "build_median_ms": round(float(np.median(milliseconds)), 1),
        "build_max_ms": round(float(milliseconds.max()), 1),
    }


def latency(bundle: Bundle, rounds: int) -> Found:
    """Seconds of a shared session over those of a naive one: the median of pairs of runs, for some heads and tails."""
    last, builds = bundle.manifest.last, (naive(bundle), shared(bundle))
    ratios = []
    for segment in [Segment(0, last), *cuts(last, 4)]:
        pair = [build(segment) for build in builds]
        times = np.array([[_run(session) for session in pair] for _ in range(rounds)])
        ratios.append(float(np.median(times[3:, 1] / times[3:, 0])))
    mean = float(np.exp(np.mean(np.log(ratios))))
    return {"latency_ratio": round(mean, 3), "least": round(min(ratios), 3), "most": round(max(ratios), 3)}


def requests(bundle: Bundle, rounds: int) -> Found:
    """Milliseconds of a request on a resident head, alone and while other sessions are built."""
    model = Model(bundle)
    last, busy = model.last, Segment(0, model.last // 2)
    tensor = model.zeros(0, 1)
    model.prepare([busy])
    alone, building = [], []
    with ThreadPoolExecutor(1) as builder:
        for segment in cuts(last, rounds // 10):
            alone += [_timed(lambda: model.run(busy, tensor)) for _ in range(5)]
            built = builder.submit(model.prepare, [segment])
            while not built.done():
                building.append(_timed(lambda: model.run(busy, tensor)))
            built.result()
    found = {"alone": alone, "building": building}
    return {f"{k}_p{p}_ms": round(1e3 * float(np.percentile(v, p)), 2) for k, v in found.items() for p in (50, 99)}


def _timed(job: Callable[[], object]) -> float:
    started = time.perf_counter()
    job()
    return time.perf_counter() - started


def _run(session: ort.InferenceSession) -> float:
    given = session.get_inputs()[0]
    tensor = np.zeros((1, *given.shape[1:]), np.float32)
    return _timed(lambda: session.run(None, {given.name: tensor}))


def _resident_mb() -> float:
    """What only this process holds in memory, after the allocator has given back what is free."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3


def _measured(what: str, count: int, rounds: int) -> Found:
    process.tune_allocator()
    bundle = in_memory(efficientnet_b0())
    if what in ("naive", "shared"):
        return memory((naive if what == "naive" else shared)(bundle), bundle.manifest.last, count)
    return latency(bundle, rounds) if what == "latency" else requests(bundle, rounds)


def _apart(what: str, count: int, rounds: int) -> Found:
    """Measures in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sessions", "--measure", what]
    command += ["--split-points", str(count), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    if done.returncode:
        sys.exit(f"measuring {what} failed: {done.stderr.strip()[-500:]}")
    return dict(json.loads(done.stdout))


def _shown(found: dict[str, Found]) -> Table:
    table = Table(title="Sessions of EfficientNet-B0 (21 MB of weights)", title_justify="left")
    for column in ("", "sessions", "MB for each", "build ms, median", "max"):
        table.add_column(column, justify="right")
    for kind in ("naive", "shared"):
        row = found[kind]
        numbers = (row[key] for key in ("sessions", "mb_per_session", "build_median_ms", "build_max_ms"))
        table.add_row(kind, *(f"{number:,.4g}" for number in numbers))
    return table


def _verdict(passed: bool, sentence: str) -> str:
    return f"[{'green' if passed else 'red'}]{'PASS' if passed else 'FAIL'}[/] {sentence}"


def main() -> int:
    """Measures each in its own process, prints a table and the verdicts, writes JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sessions", description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--split-points", type=int, default=18, help="each gives a head and a tail")
    parser.add_argument("--rounds", type=int, default=60, help="runs of each session that latencies are taken from")
    parser.add_argument("--measure", choices=("naive", "shared", "latency", "requests"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(_measured(given.measure, given.split_points, given.rounds)))
        return 0
    kinds = ("naive", "shared", "latency", "requests")
    found = {kind: _apart(kind, given.split_points, given.rounds) for kind in kinds}
    console, each, ratio = Console(), found["shared"]["mb_per_session"], found["latency"]
    console.print(_shown(found))
    small, fast = each <= TARGET_MB, ratio["latency_ratio"] <= TARGET_LATENCY
    console.print(_verdict(small, f"{each:.2f} MB for each further session, at most {TARGET_MB:g}"))
    sentence = f"{ratio['latency_ratio']:.3f} of the naive latency ({ratio['least']:.3f} to {ratio['most']:.3f})"
    console.print(_verdict(fast, f"{sentence}, at most {TARGET_LATENCY:g}"))
    console.print("requests: {alone_p50_ms} ms (p99 {alone_p99_ms}) alone, ".format(**found["requests"]), end="")
    console.print("{building_p50_ms} ms (p99 {building_p99_ms}) while others are built".format(**found["requests"]))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"target_mb": TARGET_MB, **found}, indent=2) + "\n")
    return 0 if small and fast else 1


if __name__ == "__main__":
    sys.exit(main())
