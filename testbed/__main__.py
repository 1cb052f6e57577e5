"""`offramp`: ends in one line on Ctrl-C from its first moment on, while what it needs is still being imported."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """Entry point."""
    try:
        from testbed.cli import main as run

        run()
    except KeyboardInterrupt:
        print("offramp: interrupted", file=sys.stderr)
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
