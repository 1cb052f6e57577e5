"""Where the agent gets the plan of a request from: the same always, or what a planner finds best (`replan`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from services.domain import Plan, Policy
from services.response import Response


class Plans(Protocol):
    """Where the agent gets the plan of a request from, and tells what came of it."""

    def plan(self, policy: Policy, batch_size: int) -> Plan: ...

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None: ...


@dataclass(frozen=True, slots=True)
class FixedPlan:
    """The same plan always."""

    fixed: Plan

    def plan(self, policy: Policy, batch_size: int) -> Plan:
        return self.fixed

    def learn(self, response: Response, policy: Policy, batch_size: int) -> None:
        pass
