"""What the benchmarks ran on and when: enough to judge the figures by, nothing that says whose machine it was."""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

LIBRARIES = ("onnxruntime", "grpcio", "protobuf", "numpy", "tritonclient")


def facts() -> dict[str, object]:
    """date: of today, ISO. load: how many processes ran or wanted to, on average over a minute."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in LIBRARIES},
    }


def _cpu() -> str:
    """The model's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Prints the facts, or writes them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.machine", description=__doc__)
    parser.add_argument("--json", type=Path, help="file to write the facts to")
    arguments = parser.parse_args()
    text = json.dumps(facts(), indent=2) + "\n"
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
