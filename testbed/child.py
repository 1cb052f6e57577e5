"""Runs a module as a part of the testbed, which ends when the testbed does, however that ends.

A testbed that is killed outright cannot drain its parts; without this they would serve on, with nobody's interest.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """`python -m testbed.child MODULE ARGUMENT…`"""
    _end_with_parent()
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    """Asks Linux for a SIGTERM when the parent is gone. Elsewhere there is no such thing to ask for."""
    parent = os.getppid()
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it went before we asked
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
