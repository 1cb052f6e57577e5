"""What a process holds in memory."""

from __future__ import annotations

from pathlib import Path


def resident_mb(pid: int) -> float:
    """Megabytes that are resident, those shared with other processes included. Linux alone."""
    return _bytes(pid, "VmRSS:") / 1e6


def own_bytes(pid: int) -> int:
    """Bytes that are resident, without the pages of files, which come and go as the kernel likes. Linux alone."""
    return _bytes(pid, "RssAnon:")


def _bytes(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith(field))
    return kilobytes << 10
