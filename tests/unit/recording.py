"""The recording engine that `make plan` uses, for tests."""

from stacks.recording import Graph, Registered, record

__all__ = ["Graph", "Registered", "record"]
