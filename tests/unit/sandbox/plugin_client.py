"""A plugin served in this process on loopback, and a client that speaks to it as the engine does."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (grpc's generated client stubs leave their calls untyped)

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import grpc
from google.protobuf import json_format, struct_pb2
from pulumi.runtime.proto import provider_pb2 as messages
from pulumi.runtime.proto import provider_pb2_grpc as service

from sandbox.plugins.protocol import SECRET, SIGNATURE, Provider


@dataclass(frozen=True)
class Made:
    """A resource as the engine gets it: outputs without their marks, and which of them were marked secret."""

    id: str
    outputs: dict[str, object]
    secrets: set[str]


def struct(values: Mapping[str, object]) -> struct_pb2.Struct:
    """Properties on the wire."""
    return json_format.ParseDict(dict(values), struct_pb2.Struct())


def made(identity: str, properties: struct_pb2.Struct) -> Made:
    """Properties from the wire."""
    values = cast("dict[str, object]", json_format.MessageToDict(properties))
    marked = {
        key: cast("dict[str, object]", value)
        for key, value in values.items()
        if isinstance(value, dict) and cast("dict[str, object]", value).get(SIGNATURE) == SECRET
    }
    return Made(identity, {key: marked[key]["value"] if key in marked else value for key, value in values.items()}, set(marked))


@dataclass(frozen=True)
class Plugin:
    """The calls of the engine that matter, with a deadline on each."""

    stub: service.ResourceProviderStub
    timeout: float = 20

    def check(self, type_: str, news: Mapping[str, object], stack: str = "sandbox") -> list[messages.CheckFailure]:
        """What is wrong with the inputs."""
        return list(self.stub.Check(messages.CheckRequest(urn=urn(stack, type_), news=struct(news)), timeout=self.timeout).failures)

    def create(self, type_: str, properties: Mapping[str, object], *, stack: str = "sandbox", preview: bool = False) -> Made:
        """A new resource."""
        request = messages.CreateRequest(urn=urn(stack, type_), properties=struct(properties), preview=preview)
        answer = self.stub.Create(request, timeout=self.timeout)
        return made(answer.id, answer.properties)

    def diff(
        self,
        type_: str,
        olds: Mapping[str, object],
        news: Mapping[str, object],
        *,
        state: Mapping[str, object] | None = None,
        ignore: Sequence[str] = (),
    ) -> messages.DiffResponse:
        """What changed inputs mean."""
        request = messages.DiffRequest(
            urn=urn("sandbox", type_), old_inputs=struct(olds), news=struct(news), olds=struct(state or {}), ignoreChanges=list(ignore)
        )
        return self.stub.Diff(request, timeout=self.timeout)

    def read(self, type_: str, identity: str, state: Mapping[str, object]) -> Made:
        """What a refresh sees."""
        answer = self.stub.Read(messages.ReadRequest(urn=urn("sandbox", type_), id=identity, properties=struct(state)), timeout=self.timeout)
        return made(answer.id, answer.properties)

    def update(self, type_: str, state: Mapping[str, object], news: Mapping[str, object]) -> Made:
        """The resource with changed inputs."""
        request = messages.UpdateRequest(urn=urn("sandbox", type_), olds=struct(state), news=struct(news))
        return made("", self.stub.Update(request, timeout=self.timeout).properties)

    def delete(self, type_: str, identity: str) -> None:
        """The end of a resource."""
        self.stub.Delete(messages.DeleteRequest(urn=urn("sandbox", type_), id=identity), timeout=self.timeout)


def urn(stack: str, type_: str) -> str:
    """The name of a resource below a component, as the engine writes it."""
    return f"urn:pulumi:{stack}::groundwork::groundwork:data:Redis${type_}::name"


@contextmanager
def serving(provider: Provider) -> Generator[Plugin]:
    """Serves `provider` while the block runs."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    service.add_ResourceProviderServicer_to_server(provider, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Plugin(service.ResourceProviderStub(channel))
    finally:
        server.stop(grace=None).wait(10)
