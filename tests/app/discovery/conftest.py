"""Fixtures of the tests of Consul's client, watches, discovery and configuration."""

from __future__ import annotations

from groundwork.testing.pytest_plugin import consul_client, consul_simulator

__all__ = ["consul_client", "consul_simulator"]
