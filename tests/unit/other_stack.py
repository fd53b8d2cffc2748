"""A Pulumi program that reads another stack's outputs through a real StackReference."""

# pyright: basic
# (the SDK's mocks carry no types)

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pulumi
from pulumi.runtime import mocks


class OtherStack(mocks.Mocks):
    """An engine whose state has one other stack with outputs. It hands them over as the engine does: numbers as floats."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values
        self.asked: list[str] = []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        assert args.typ == "pulumi:pulumi:StackReference"
        self.asked.append(args.name)
        return args.name, {**args.inputs, "outputs": floats(dict(self.values))}

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"{args.token} is called, though only outputs are read")


def floats(value: object) -> object:
    if isinstance(value, dict):
        return {key: floats(inner) for key, inner in cast("dict[str, object]", value).items()}
    return float(value) if isinstance(value, int) else value


def run(program: Callable[[], object], values: Mapping[str, object]) -> OtherStack:
    """Runs a Pulumi program to its end, where another stack has these outputs."""
    engine = OtherStack(values)
    mocks.set_mocks(engine, project="theirs", stack="dev")

    @pulumi.runtime.test
    async def decorated() -> None:  # undecorated, nothing would be awaited
        program()

    cast("Callable[[], None]", decorated)()
    return engine
