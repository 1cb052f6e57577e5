"""Admission."""

from __future__ import annotations

import pytest

from services.errors import Draining, ModelNotReady, QueueFull
from services.limiter import Limiter


def test_as_many_as_allowed_are_held_and_no_more() -> None:
    limiter = Limiter(2)
    with limiter.admit(), limiter.admit():
        with pytest.raises(QueueFull, match="2 requests"), limiter.admit():
            pytest.fail("a third was admitted")
        assert limiter.in_flight == 2
    with limiter.admit():
        assert limiter.in_flight == 1
    assert limiter.in_flight == 0


def test_nobody_is_admitted_before_it_is_warm() -> None:
    limiter = Limiter(1, warm=False)
    with pytest.raises(ModelNotReady, match="warming up"), limiter.admit():
        pytest.fail("was admitted")
    assert not limiter.ready
    limiter.warm = True
    with limiter.admit():
        assert limiter.ready


def test_a_place_is_given_back_when_its_request_fails() -> None:
    limiter = Limiter(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), limiter.admit():
            raise ValueError("broken")
    assert limiter.in_flight == 0


def test_who_is_refused_takes_no_place() -> None:
    limiter = Limiter(1)
    with limiter.admit():
        for _ in range(3):
            with pytest.raises(QueueFull), limiter.admit():
                pass
    assert limiter.in_flight == 0


def test_nobody_is_admitted_while_draining_and_those_inside_stay() -> None:
    limiter = Limiter(2)
    with limiter.admit():
        limiter.draining = True
        with pytest.raises(Draining), limiter.admit():
            pytest.fail("admitted while draining")
        assert limiter.in_flight == 1
