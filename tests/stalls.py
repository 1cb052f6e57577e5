"""Failures that say nothing: while the test ran, the machine had stood still."""

from __future__ import annotations

import time

from testbed.chaos.stalls import LOOK_SECONDS, WINDOW_SECONDS, Bystander

bystander = Bystander(time.monotonic())


def stalled() -> bool:
    """Whether the machine did so since the test began; waits for the bystander to have looked once more."""
    time.sleep(WINDOW_SECONDS + 2 * LOOK_SECONDS)
    return bool(bystander.stalls)
