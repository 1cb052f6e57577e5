"""`python -m tests.fuzz TARGET CORPUS [libFuzzer options]`: fuzzes one target, guided by coverage."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["services"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    """The corpus is filled with good inputs first, and keeps what libFuzzer adds to it."""
    name, corpus = sys.argv[1], Path(sys.argv[2])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[3:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
