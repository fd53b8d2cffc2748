"""The runtime library that services import: `from groundwork import Platform`."""

from groundwork.platform import Platform

__all__ = ["Platform"]
