"""What `offramp` can do only with more than its ordinary packages."""

from __future__ import annotations

from services.errors import SettingsError


def missing(purpose: str, error: ImportError) -> SettingsError:
    """`purpose` needs what the extra `train` brings, and `error` says that it is not there."""
    return SettingsError(
        f"{purpose} needs {error.name}; in a checkout: .venv/bin/pip install -c constraints.txt -e '.[train]'"
    )
