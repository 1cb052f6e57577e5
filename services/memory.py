"""How much memory this process may take: what its container allows, or else what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_FILES = ("memory.max", "memory/memory.limit_in_bytes")
CGROUP = Path("/sys/fs/cgroup")


def limit_bytes(cgroup: Path = CGROUP) -> int:
    """The smaller of the container's limit and the machine's memory, in bytes."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([whole, *(limit for name in _CGROUP_FILES if (limit := _read(cgroup / name)))])


def _read(file: Path) -> int:
    """0 where there is none: no such file, or the word 'max'."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
