"""Health: what a probe may be told, found out in the background."""

from groundwork.health.model import Check, CheckFailed, CheckResult, Finding, Report, State, Status
from groundwork.health.registry import HealthRegistry

__all__ = ["Check", "CheckFailed", "CheckResult", "Finding", "HealthRegistry", "Report", "State", "Status"]
