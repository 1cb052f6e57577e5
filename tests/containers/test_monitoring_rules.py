"""The rules of Prometheus, held against their own tests by promtool: from the path, or from the image."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.containers.conftest import cannot, need_engine, run

pytestmark = pytest.mark.docker

FOLDER = ROOT / "deploy" / "prometheus"
Promtool = Callable[..., str]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where promtool can read, too."""
    folder = tmp_path_factory.mktemp("rules")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def promtool(scratch: Path) -> Promtool:
    """Runs promtool; raises AssertionError with what it printed."""
    if found := shutil.which("promtool"):
        return lambda *arguments: run(found, *arguments, seconds=60)
    need_engine()
    (image,) = re.findall(r"PROMETHEUS_IMAGE:-([^}]+)}", (ROOT / "docker-compose.yml").read_text("utf-8"))
    try:
        run("docker", "image", "inspect", image, seconds=30)
    except AssertionError:
        cannot(f"no promtool, and no image {image}; to have it: docker pull {image}")
    mounts = [f"--volume={folder}:{folder}:ro" for folder in (FOLDER, scratch)]
    command = ("docker", "run", "--rm", "--network=none", *mounts, "--entrypoint=promtool", image)
    return lambda *arguments: run(*command, *arguments, seconds=60)


def test_the_configuration_and_its_rules_are_sound(promtool: Promtool) -> None:
    promtool("check", "config", str(FOLDER / "prometheus.yml"))


@pytest.mark.parametrize("file", sorted((FOLDER / "rules" / "tests").glob("*.yml")), ids=lambda file: file.stem)
def test_the_rules_do_what_their_tests_say(promtool: Promtool, file: Path) -> None:
    promtool("test", "rules", str(file))


def test_a_rule_that_does_not_would_be_noticed(promtool: Promtool, scratch: Path) -> None:
    wrong = scratch / "wrong.yml"
    wrong.write_text("tests: [{promql_expr_test: [{expr: vector(1), eval_time: 1m, exp_samples: [{value: 2}]}]}]")
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", str(wrong))
