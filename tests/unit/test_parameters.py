"""What the public door's parameters ask for, in every way a client can say it, and what each refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from services import bundle
from services.bundle import Manifest
from services.domain import Objective
from services.errors import InvalidInput
from services.open_inference import messages, parameters
from services.open_inference.parameters import Parameters


@pytest.fixture(scope="module")
def manifest(tiny: Path) -> Manifest:
    return bundle.load(tiny).manifest


def read(manifest: Manifest, name: str, value: Any, kind: str = "") -> Parameters:
    request = messages.ModelInferRequest()
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    setattr(request.parameters[name], kind or kinds[type(value)], value)
    return parameters.read(request.parameters, manifest)


def test_nothing_given_wishes_for_nothing(manifest: Manifest) -> None:
    found = parameters.read(messages.ModelInferRequest().parameters, manifest)
    assert found.wishes == parameters.Wishes()
    assert (found.timeout_seconds, found.wishes.priority, found.trace) == (None, 0, False)


def test_unknown_names_are_passed_over_and_named(manifest: Manifest) -> None:
    found = read(manifest, "sequence_id", 7)
    assert (found.wishes, found.ignored) == (parameters.Wishes(), "sequence_id")


@pytest.mark.parametrize("name", sorted(parameters.KNOWN - {"policy", "split"}))
def test_what_means_something_is_not_called_ignored(manifest: Manifest, name: str) -> None:
    assert read(manifest, name, "true" if name in ("privacy", "trace", parameters.EMPTY_FINAL) else "1").ignored == ""


def test_the_names_that_are_told_are_few_short_and_printable(manifest: Manifest) -> None:
    request = messages.ModelInferRequest()
    for number in range(1000):
        request.parameters[f"{number:03}\n,{'x' * 500}"].bool_param = True
    told = parameters.read(request.parameters, manifest).ignored.split(",")
    assert len(told) == 16
    assert all(len(name) == 64 and name[3:5] == "??" and name.isprintable() for name in told)


@pytest.mark.parametrize(("furthest", "expected"), [(0, (0, 0, 0)), ("1", (0.6, 0, 0)), (2, (0.6, 0.5, 0))])
def test_nobody_goes_beyond_the_furthest_exit(manifest: Manifest, furthest: Any, expected: tuple[float, ...]) -> None:
    assert read(manifest, "max_exit", furthest).wishes.thresholds == expected


def test_a_threshold_and_a_furthest_exit_hold_together(manifest: Manifest) -> None:
    request = messages.ModelInferRequest()
    request.parameters["max_exit"].int64_param = 1
    request.parameters["exit_threshold"].string_param = "1.5"
    assert parameters.read(request.parameters, manifest).wishes.thresholds == (1.5, 0, 0)


@pytest.mark.parametrize("objective", list(Objective))
def test_the_policy_is_one_of_three(manifest: Manifest, objective: Objective) -> None:
    assert read(manifest, "policy", objective.value).wishes.objective is objective


@pytest.mark.parametrize(("value", "expected"), [(0.97, 0.97), ("0.9", 0.9), (1, 1.0), (0.90001, 0.901), (0, 0.0)])
def test_an_accuracy_is_rounded_up_so_that_requests_share_plans(
    manifest: Manifest, value: Any, expected: float
) -> None:
    found = read(manifest, "min_accuracy", value).wishes.min_accuracy
    assert found == pytest.approx(expected, abs=1e-3)
    assert found is not None
    assert found >= float(value)


@pytest.mark.parametrize(("value", "expected"), [(True, True), ("TRUE", True), (False, False), ("false", False)])
@pytest.mark.parametrize("name", ["privacy", "trace"])
def test_a_yes_or_no_is_a_bool_or_a_word(manifest: Manifest, name: str, value: Any, expected: bool) -> None:
    found = read(manifest, name, value)
    assert (found.wishes.privacy if name == "privacy" else found.trace) is expected


@pytest.mark.parametrize("value", ["2,4", " 2 , 4 "])
def test_a_split_is_two_split_points(manifest: Manifest, value: str) -> None:
    assert read(manifest, "split", value).wishes.splits == (2, 4)


@pytest.mark.parametrize(("value", "expected"), [(250_000, 0.25), ("1000000", 1.0), (0, None)])
def test_a_timeout_is_in_microseconds(manifest: Manifest, value: Any, expected: float | None) -> None:
    assert read(manifest, "timeout", value).timeout_seconds == expected


@pytest.mark.parametrize(("value", "kind"), [(2, "uint64_param"), (2, "int64_param"), ("2", "string_param")])
def test_a_priority_is_a_whole_number(manifest: Manifest, value: Any, kind: str) -> None:
    assert read(manifest, "priority", value, kind).wishes.priority == 2


WRONG = [
    ("exit_threshold", -0.1, "between 0"),
    ("exit_threshold", True, "between 0"),
    ("exit_threshold", math.nan, "between 0"),
    ("max_exit", 3, "from 0 to 2"),
    ("max_exit", -1, "from 0 to 2"),
    ("max_exit", 0.5, "from 0 to 2"),
    ("max_exit", "last", "from 0 to 2"),
    ("policy", "cheap", "latency, energy, bytes"),
    ("policy", 1, "latency, energy, bytes"),
    ("min_accuracy", 1.01, "between 0 and 1"),
    ("min_accuracy", "high", "between 0 and 1"),
    ("privacy", "maybe", "true or false"),
    ("privacy", 1, "true or false"),
    ("split", "2", "two split points"),
    ("split", "2,4,6", "two split points"),
    ("split", "-2,4", "two split points"),
    ("split", "²,4", "two split points"),
    ("split", 24, "two split points"),
    ("split", "9" * 5000 + ",4", "two split points"),
    ("timeout", -1, "microseconds"),
    ("timeout", 0.5, "microseconds"),
    ("timeout", "1e999", "microseconds"),
    ("priority", -1, "whole number"),
    ("priority", "urgent", "whole number"),
    ("max_exit", 1 << 53, "whole number"),
    ("trace", 1, "true or false"),
    ("triton_enable_empty_final_response", "perhaps", "true or false"),
]


def test_the_lowest_priority_that_fits_in_the_field_is_taken(manifest: Manifest) -> None:
    assert read(manifest, "priority", (1 << 64) - 1, "uint64_param").wishes.priority == (1 << 64) - 1


@pytest.mark.parametrize(("name", "value", "takes"), WRONG)
def test_a_wrong_value_is_refused_by_name_with_what_is_taken(
    manifest: Manifest, name: str, value: Any, takes: str
) -> None:
    with pytest.raises(InvalidInput, match=takes) as refused:
        read(manifest, name, value)
    assert str(refused.value).startswith(f"{name} must be ")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _, _ in WRONG))
def test_a_parameter_without_a_value_is_refused(manifest: Manifest, name: str) -> None:
    request = messages.ModelInferRequest()
    request.parameters[name].Clear()
    with pytest.raises(InvalidInput, match=name):
        parameters.read(request.parameters, manifest)
