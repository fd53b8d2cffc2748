"""Fixtures of the tests of the whole platform."""

from __future__ import annotations

from groundwork.testing.pytest_plugin import consul_simulator

__all__ = ["consul_simulator"]
