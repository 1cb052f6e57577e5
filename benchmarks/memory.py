"""What a process holds in memory."""

from __future__ import annotations

from pathlib import Path


def resident_mb(pid: int) -> float:
    """Megabytes that are resident, those shared with other processes included. Linux alone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return kilobytes * 1024 / 1e6
