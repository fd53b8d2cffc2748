"""The one table of what Groundwork runs: the official image of each part, its version and the end of that version's support.

A version is exact, never a moving tag. PostgreSQL's dates: https://www.postgresql.org/support/versioning/.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

GROUNDWORK = "0.1.0"  # the version of everything in this repository

KUBERNETES_SUPPORTED = ("1.34", "1.35", "1.36")
KUBERNETES_PROVEN = "1.34"
POD_SECURITY_VERSION = "v1.34"  # the oldest supported one: its rules exist on every supported cluster


@dataclass(frozen=True)
class Image:
    """An official image at an exact version. `end_of_support` is None where the project publishes no date."""

    reference: str
    end_of_support: date | None


POSTGRES = Image("postgres:17.11-bookworm", date(2029, 11, 8))
REDIS = Image("redis:7.2.16-bookworm", None)
RABBITMQ = Image("rabbitmq:4.3.5-management", None)
CONSUL = Image("hashicorp/consul:1.22.7", None)
