"""Ctrl-C before anybody listens for it: while imports run, which takes most of a second."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130
"""The exit code of a process that Ctrl-C ended, as shells have it."""


def quietly() -> None:
    """Until the event loop listens for signals, Ctrl-C ends the process at once and without a word.

    There is nothing to drain yet, and an exception would come out of the middle of some import.
    """
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
