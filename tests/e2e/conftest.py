"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["exchange", "unary"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How tiers forward requests, where their settings do not say: each test runs both ways."""
    monkeypatch.setenv("OFFRAMP_TRANSPORT", request.param)
    return str(request.param)
