"""What runs may use of this machine: how many cores, how many threads of them, and what besides the processor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from services.errors import SettingsError
from services.memory import CGROUP

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "openvino": "OpenVINOExecutionProvider"}
"""onnxruntime's names of what can run a network, by ours."""

_PACKAGES = {"cuda": "onnxruntime-gpu", "openvino": "onnxruntime-openvino"}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What one run uses: `threads`, which spin between runs or sleep, and the first of `providers` that can run it."""

    threads: int = 1
    spinning: bool = False
    providers: tuple[str, ...] = ("cpu",)

    @property
    def accelerated(self) -> bool:
        return self.providers[0] != "cpu"

    @property
    def asked(self) -> list[str]:
        """The providers in onnxruntime's words; the processor last, for what the others cannot run."""
        return [PROVIDERS[name] for name in dict.fromkeys((*self.providers, "cpu"))]


def check_providers(names: Sequence[str], installed: Sequence[str] | None = None) -> None:
    """Raises SettingsError unless the onnxruntime installed here has all of `names`."""
    there = ort.get_available_providers() if installed is None else installed
    for name in names:
        if PROVIDERS[name] not in there:
            has = ", ".join(known for known, found in PROVIDERS.items() if found in there)
            raise SettingsError(
                f"providers: {name} is not in the onnxruntime installed here, which has {has}; "
                f"install {_PACKAGES.get(name, 'onnxruntime')} in its place, or ask for cpu"
            )


def cores(cgroup: Path = CGROUP) -> float:
    """Processors this process may keep busy: those it may run on, or the container's quota where that is less."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return float(there) if quota is None else min(float(there), quota)


def _quota(cgroup: Path) -> float | None:
    """Processors' worth of time that the container may spend; None where it has no such limit."""
    v1 = cgroup / "cpu"
    try:
        if (v1 / "cpu.cfs_quota_us").exists():
            limit, period = (int((v1 / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        else:
            limit, period = map(int, (cgroup / "cpu.max").read_text().split())
    except (OSError, ValueError):  # no such file, or the word 'max'
        return None
    return limit / period if limit > 0 and period > 0 else None
