"""What Prometheus, Grafana and compose are told fits together, and fits the series that the tiers export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.errors import CallerError, ModelMismatch, NotHeld, OfframpError
from services.metrics.calls import CLIENT, SERVER
from services.metrics.table import series
from tests.boards import asked, provisioned
from tests.conftest import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
OURS = re.compile(r"\b(?:offramp|grpc_server|grpc_client)_\w+")
RECORDED = re.compile(r"\w+:[\w:]+")
DEFAULT = re.compile(r"\$\{(\w+):-([^}]*)\}")
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+")

DATA_SOURCE = {"name", "uid", "type", "access", "url", "isDefault", "editable", "jsonData"}
PROVIDER = {"name", "type", "disableDeletion", "allowUiUpdates", "updateIntervalSeconds", "options"}
"""Keys that Grafana's documentation gives for these files, as far as they are used here."""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


COMPOSE = read(ROOT / "docker-compose.yml")
RULES = [
    rule for file in sorted(PROMETHEUS.glob("rules/*.yml")) for group in read(file)["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [query.expr for query in asked()]

each_alert = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
each_watcher = pytest.mark.parametrize("service", ["prometheus", "grafana"])


def exported() -> set[str]:
    """Names of samples in what tiers answer."""
    names = set()
    for each in (*series(), *SERVER.series, *CLIENT.series):
        ends = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
        names |= {each.name + end for end in ends}
    return names


@pytest.mark.parametrize("expr", EXPRESSIONS, ids=lambda expr: expr[:60])
def test_rules_and_boards_ask_for_series_that_exist(expr: str) -> None:
    recorded = {rule.get("record") for rule in RULES}
    used = set(RECORDED.findall(expr))
    assert used <= recorded
    for name in used:
        expr = expr.replace(name, "")
    assert set(OURS.findall(expr)) <= exported()


def test_a_fault_is_what_no_caller_can_put_right() -> None:
    """Tiers that hold different models, or parts of one, are called wrongly by each other: that is our own fault."""
    callers = {kind.reason for kind in _below(CallerError)} - {ModelMismatch.reason, NotHeld.reason}
    asked = [set(found.split("|")) for expr in EXPRESSIONS for found in re.findall(r'reason!~"([^"]+)"', expr)]
    assert len(asked) > 1
    assert all(found == callers for found in asked)


def _below(kind: type[OfframpError]) -> set[type[OfframpError]]:
    found = set(kind.__subclasses__())
    return found | {each for one in found for each in _below(one)}


def test_the_alerts_that_were_promised_are_there() -> None:
    promised = {"HighErrorRatio", "HighLatencyP99", "QueueSaturated", "UpstreamDown", "NoEarlyExits"}
    promised |= {"Degraded", "LinkUnknown", "ModelLoadFailed"}
    assert promised <= {alert["alert"] for alert in ALERTS}


@each_alert
def test_an_alert_waits_and_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+[sm]", alert["for"])
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert anchor == alert["alert"].lower()
    assert f"## {alert['alert']}\n" in (ROOT / page).read_text("utf-8")


@each_alert
def test_an_alert_is_tested_when_it_fires_and_when_it_does_not(alert: dict[str, Any]) -> None:
    cases = [
        case
        for file in PROMETHEUS.glob("rules/tests/*.yml")
        for test in read(file)["tests"]
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert["alert"]
    ]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


def test_each_tier_is_a_job_of_its_name_at_the_address_that_compose_gives_it() -> None:
    jobs = read(PROMETHEUS / "prometheus.yml")["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in jobs}
    assert targets == {
        "device": ["device-agent:8002"],
        "edge": ["edge-node:8002"],
        "cloud": ["cloud-node:8002"],
    }
    for (host,) in ([target.partition(":")[0] for target in found] for found in targets.values()):
        assert COMPOSE["services"][host]["environment"]["OFFRAMP_METRICS_LISTEN"] == "0.0.0.0:8002"
        assert set(COMPOSE["services"][host]["networks"]) <= set(COMPOSE["services"]["prometheus"]["networks"])


def test_the_data_source_is_prometheus_as_compose_starts_it() -> None:
    file = read(provisioned("datasources"))
    assert (set(file), file["apiVersion"]) == ({"apiVersion", "prune", "datasources"}, 1)
    (source,) = file["datasources"]
    assert set(source) == DATA_SOURCE
    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    assert source["url"] == "http://prometheus:9090"
    assert source["jsonData"]["timeInterval"] == read(PROMETHEUS / "prometheus.yml")["global"]["scrape_interval"]
    assert set(COMPOSE["services"]["grafana"]["networks"]) <= set(COMPOSE["services"]["prometheus"]["networks"])


def test_the_boards_are_provided_from_where_compose_puts_them() -> None:
    file = read(provisioned("dashboards"))
    assert (set(file), file["apiVersion"]) == ({"apiVersion", "providers"}, 1)
    (provider,) = file["providers"]
    assert set(provider) == PROVIDER
    assert (provider["type"], provider["allowUiUpdates"]) == ("file", False)
    mounts = dict(volume.rsplit(":", 1)[0].split(":") for volume in COMPOSE["services"]["grafana"]["volumes"])
    assert mounts == {
        "./deploy/grafana/provisioning/datasources": "/etc/grafana/provisioning/datasources",
        "./deploy/grafana/provisioning/dashboards": "/etc/grafana/provisioning/dashboards",
        "./deploy/grafana/dashboards": provider["options"]["path"],
    }
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "deploy" / "grafana" / "dashboards" / Path(home).relative_to(provider["options"]["path"])).is_file()


@each_watcher
def test_what_watches_has_no_more_rights_than_the_tiers(service: str) -> None:
    found = COMPOSE["services"][service]
    assert (found["read_only"], found["cap_drop"]) == (True, ["ALL"])
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert not found["user"].startswith("0")
    assert all(volume.endswith(":ro") for volume in found["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in found["ports"])
    assert set(found["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert found["healthcheck"]["test"]


@each_watcher
def test_images_are_pinned_and_can_be_replaced(service: str) -> None:
    ((name, image),) = DEFAULT.findall(COMPOSE["services"][service]["image"])
    assert name == f"{service.upper()}_IMAGE"
    assert PINNED.fullmatch(image)


def test_who_looks_at_grafana_may_only_look() -> None:
    given = COMPOSE["services"]["grafana"]["environment"]
    assert (given["GF_AUTH_ANONYMOUS_ENABLED"], given["GF_AUTH_ANONYMOUS_ORG_ROLE"]) == ("true", "Viewer")
    assert given["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert given["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert given["GF_AUTH_BASIC_ENABLED"] == "false"


def test_the_example_lists_what_can_be_set_with_the_values_in_use() -> None:
    example = (ROOT / ".env.example").read_text("utf-8")
    listed = dict(re.findall(r"^(\w+)=([^#\n]*?)\s*(?:#.*)?$", example, re.MULTILINE))
    assert not re.findall(r"^\w+=\s+#.*$", example, re.MULTILINE), "compose takes the comment for the value"
    files = ("docker-compose.yml", "docker-compose.mtls.yml")
    assert dict(DEFAULT.findall("".join((ROOT / name).read_text("utf-8") for name in files))) == listed
