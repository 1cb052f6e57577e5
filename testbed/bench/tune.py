"""Quick experiments with our policy in the simulation: which of its numbers help, on which trace.

Run: ``python -m testbed.bench.tune TRACE… --bundle DIR [--photos DIR] [--margin 0.05,0.1] [--dwell 5,1] [--help]``
Every combination of the values given runs on every trace; the table shows our mean latency over the oracle's and over
that of the best static plan. `--patience`: after how many times the expected seconds the device finishes by itself.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from device_agent.switching import SwitchRule
from services.patience import PATIENCE
from testbed.bench import conduct, study
from testbed.bench.compare import Bench, Trial, maker, run, simulate
from testbed.bench.policies import BEST_STATIC, ORACLE, OURS
from testbed.bench.world import Loop, World

RULE = SwitchRule()


def main() -> None:
    """Measures once, then tries every combination."""
    args = _arguments()
    asked = conduct.Asked(
        args.trace, [args.bundle] if args.bundle else (), args.data, args.photos, (), (), None, 1, 0, args.out, World()
    )
    console = Console()
    for workload in conduct.prepared(asked, lambda text: None):
        each = conduct.ready(workload, asked, asked.world)
        trials = study.trials(asked.traces, args.seconds, Loop(args.loop), args.seed)
        console.print(_table(each, trials, args))


def _table(each: Bench, trials: list[Trial], args: argparse.Namespace) -> Table:
    bounds = {trial.name: _bounds(each, trial) for trial in trials}
    table = Table(title=f"{each.workload.name}, {args.loop} loop: ours over the oracle (over the best static plan)")
    table.box, table.title_justify = box.SIMPLE_HEAD, "left"
    table.add_column("margin agreeing dwell collapse patience", no_wrap=True)
    for trial in trials:
        table.add_column(trial.name[-16:].strip("_"), justify="right")
    table.add_column("mean", justify="right")
    for margin, agreeing, dwell, collapse, patience in product(*(getattr(args, name) for name in _NAMES)):
        rule = replace(RULE, margin=margin, agreeing=int(agreeing), dwell_seconds=dwell, collapse=collapse)
        tried = replace(each, rule=rule, world=replace(each.world, patience=patience))
        ratios = [_ratios(tried, trial, bounds[trial.name]) for trial in trials]
        means = [f"{oracle:.2f} ({static:.2f})" for oracle, static in (*ratios, tuple(np.mean(ratios, axis=0)))]
        table.add_row(f"{margin:g} {agreeing:g} {dwell:g} {collapse:g} {patience:g}", *means)
    return table


_NAMES = ("margin", "agreeing", "dwell", "collapse", "patience")


def _bounds(each: Bench, trial: Trial) -> tuple[float, float]:
    """Mean seconds of the oracle and of the best static plan."""
    runs = run(each, trial, (ORACLE, BEST_STATIC)).runs
    return float(np.mean(runs[ORACLE].seconds)), float(np.mean(runs[BEST_STATIC].seconds))


def _ratios(each: Bench, trial: Trial, bounds: tuple[float, float]) -> tuple[float, float]:
    ours = float(np.mean(simulate(each, trial, maker(each, OURS)).seconds))
    return ours / bounds[0], ours / bounds[1]


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loop", choices=list(Loop), default=Loop.CLOSED)
    defaults = {"margin": RULE.margin, "agreeing": RULE.agreeing, "dwell": RULE.dwell_seconds}
    defaults |= {"collapse": RULE.collapse, "patience": PATIENCE}
    for name in _NAMES:
        parser.add_argument(f"--{name}", type=_numbers, default=[defaults[name]], metavar="N,…")
    return parser.parse_args()


if __name__ == "__main__":
    main()
