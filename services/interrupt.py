"""Signals while nobody listens for them: before the event loop does, since imports take most of a second, and after."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130
"""The exit code of a process that Ctrl-C ended, as shells have it."""


def quietly() -> None:
    """Until the event loop listens for signals, Ctrl-C ends the process at once and without a word.

    There is nothing to drain yet, and an exception would come out of the middle of some import. SIGHUP does nothing:
    what it asks for, to read the bundles, is still to come.
    """
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
    signal.signal(signal.SIGHUP, lambda number, frame: None)


def deafen() -> None:
    """Once all is done, SIGHUP has nothing to ask for: it must not become the exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
