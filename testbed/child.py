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
    """`python -m testbed.child PARENT MODULE ARGUMENT…`. PARENT: the process that starts it."""
    parent, module, *arguments = sys.argv[1:]
    _end_with(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with(parent: int) -> None:
    """Asks Linux to be killed when the parent is gone: who is stopped hears nothing less. Elsewhere it cannot.

    The parent is named, since whoever asks for it here may find that it went while this process was starting.
    """
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
