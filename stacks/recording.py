"""An engine that records: what a program registers, as it stands on the wire, so that presence and absence can be asserted.

Pulumi's mock monitor sees every registration with its parent, provider, options and the marks of secrets; `Mocks` alone sees none of these.
"""

# pyright: basic
# ruff: noqa: ANN401, N802, S105
# (the SDK's mock monitor and its protocol messages carry no types)

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pulumi
from google.protobuf import struct_pb2
from pulumi.runtime import mocks, proto, rpc

SIGNATURE = "4dabf18193072939515e22adb298388d"  # marks a special value on the wire
SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270"


@dataclass(frozen=True)
class Registered:
    """One resource as the engine was asked to register it. `inputs` are plain values; `secret_paths` say which of them were secret."""

    urn: str
    type: str
    name: str
    parent: str
    provider: str
    inputs: dict[str, Any]
    secret_paths: tuple[str, ...]
    protect: bool
    retain: bool
    custom: bool
    delete_before_replace: bool
    dependencies: tuple[str, ...]
    aliases: tuple[str, ...]
    ignore_changes: tuple[str, ...]
    hooks: frozenset[tuple[str, str]]  # what happens, such as before_create, and the name of the hook

    @property
    def object_name(self) -> str | None:
        """The `metadata.name` of a Kubernetes object."""
        return cast("str | None", self.inputs.get("metadata", {}).get("name"))

    def __getitem__(self, path: str) -> Any:
        """The input at a dotted path; list items by number."""
        value: Any = self.inputs
        for part in path.split("."):
            value = value[int(part)] if isinstance(value, list) else value[part]
        return value


@dataclass
class Graph:
    """All that a program registered, in order."""

    resources: list[Registered] = field(default_factory=list[Registered])
    finished: set[str] = field(default_factory=set[str])  # URNs that called register_outputs
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])  # of the stack
    secret_outputs: list[str] = field(default_factory=list[str])

    def of_type(self, type_: str) -> list[Registered]:
        """The resources of a type, by its end: `Secret` finds `kubernetes:core/v1:Secret`."""
        return [r for r in self.resources if r.type == type_ or r.type.endswith(f":{type_}")]

    def one(self, type_: str, object_name: str) -> Registered:
        """The only resource of a type with that Pulumi name or object name."""
        found = [r for r in self.of_type(type_) if object_name in {r.name, r.object_name}]
        assert len(found) == 1, f"{len(found)} of {type_} {object_name}; there are {[(r.name, r.object_name) for r in self.of_type(type_)]}"
        return found[0]

    def components(self) -> list[Registered]:
        """The components, ours by their type."""
        return [r for r in self.resources if r.type.startswith("groundwork:")]

    def kubernetes(self) -> list[Registered]:
        """The Kubernetes objects."""
        return [r for r in self.resources if r.type.startswith("kubernetes:")]


def secret_paths(value: struct_pb2.Value | struct_pb2.Struct, path: str = "") -> Iterator[str]:
    """The dotted paths of the values that are marked secret on the wire."""
    if isinstance(value, struct_pb2.Struct):
        fields = value.fields
        if SIGNATURE in fields and fields[SIGNATURE].string_value == SECRET_SIGNATURE:
            yield path
            return
        for key, inner in fields.items():
            yield from secret_paths(inner, f"{path}.{key}" if path else key)
    elif value.HasField("struct_value"):
        yield from secret_paths(value.struct_value, path)
    elif value.HasField("list_value"):
        for position, inner in enumerate(value.list_value.values):
            yield from secret_paths(inner, f"{path}.{position}")


def generated(type_: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the official plugins compute: values that depend on the name and the keepers, so that a rotation shows."""
    marker = f"{name}-{(inputs.get('keepers') or {}).get('rotation', '')}"
    match type_.rpartition(":")[2]:
        case "RandomPassword" | "RandomString":
            return {"result": f"generated-{marker}"}
        case "RandomBytes":
            return {"base64": f"Z2VuZXJhdGVk-{marker}", "hex": "67656e"}
        case "RandomUuid":
            return {"result": f"uuid-{marker}"}
        case "PrivateKey":
            return {"privateKeyPem": f"private-{name}", "publicKeyPem": f"public-{name}", "privateKeyPemPkcs8": f"private8-{name}"}
        case "SelfSignedCert" | "LocallySignedCert":
            return {"certPem": pem(f"cert-{name}"), "validityEndTime": "2027-02-01T00:00:00Z"}
        case "CertRequest":
            return {"certRequestPem": f"request-{name}"}
        case "Image":
            return {"repoDigest": f"{inputs.get('imageName', name)}@sha256:{'0' * 64}"}
        case _:
            return {}


def pem(content: str) -> str:
    """Something in the form of a certificate."""
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(content.encode()).decode()}\n-----END CERTIFICATE-----\n"


class _Values(mocks.Mocks):
    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        return f"{args.name}-id", {**args.inputs, **generated(args.typ, args.name, args.inputs)}

    def call(self, args: mocks.MockCallArgs) -> dict[Any, Any]:
        raise AssertionError(f"the program calls {args.token}: a plan must need no cluster")


class _Monitor(mocks.MockMonitor):
    def __init__(self, graph: Graph) -> None:
        super().__init__(_Values())
        self.graph = graph

    def RegisterResource(self, request: proto.resource_pb2.RegisterResourceRequest) -> Any:
        urn = self.make_urn(request.parent, request.type, request.name)
        if request.type != "pulumi:pulumi:Stack":
            self.graph.resources.append(
                Registered(
                    urn=urn,
                    type=request.type,
                    name=request.name,
                    parent=request.parent,
                    provider=request.provider,
                    inputs=cast("dict[str, Any]", plain(rpc.deserialize_properties(request.object))),
                    secret_paths=tuple(secret_paths(request.object)),
                    protect=request.protect,
                    retain=request.retainOnDelete,
                    custom=request.custom,
                    delete_before_replace=request.deleteBeforeReplace,
                    dependencies=tuple(request.dependencies),
                    aliases=tuple(alias.urn or alias.spec.parentUrn or alias.spec.name for alias in request.aliases),
                    ignore_changes=tuple(request.ignoreChanges),
                    hooks=frozenset((bound.name, hook) for bound, names in request.hooks.ListFields() for hook in names),
                )
            )
        response = super().RegisterResource(request)
        for output in request.additionalSecretOutputs:  # the real engine marks these; the mock monitor forgets to
            if output in response.object.fields:
                value = struct_pb2.Struct(
                    fields={SIGNATURE: struct_pb2.Value(string_value=SECRET_SIGNATURE), "value": response.object.fields[output]}
                )
                response.object.fields[output].CopyFrom(struct_pb2.Value(struct_value=value))
        return response

    def RegisterResourceOutputs(self, request: proto.resource_pb2.RegisterResourceOutputsRequest) -> Any:
        self.graph.finished.add(request.urn)
        return super().RegisterResourceOutputs(request)


def plain(value: Any) -> Any:
    """`value` without the SDK's wrappers of secrets."""
    if rpc.is_rpc_secret(value):
        return plain(rpc.unwrap_rpc_secret(value))
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [plain(inner) for inner in cast("list[Any]", value)]
    return value


def record(build: Callable[[], object], *, stack: str = "dev", preview: bool = False) -> Graph:
    """Runs `build` as a Pulumi program and returns once every registration has landed, so that absence can be asserted too."""
    graph = Graph()
    monitor = _Monitor(graph)
    mocks.set_mocks(monitor.mocks, project="groundwork", stack=stack, preview=preview, monitor=monitor)

    @pulumi.runtime.test
    async def program() -> None:  # undecorated, nothing would be awaited and every assertion would pass
        exported_names: dict[str, object] = getattr(pulumi.runtime.get_root_resource(), "outputs", {})
        exported_names.clear()  # the SDK keeps one root for the whole process: what an earlier program exported is not this one's
        build()
        for name, value in exported_names.items():
            exported = pulumi.Output.from_input(value)
            graph.outputs[name] = await exported.future()
            if await exported.is_secret():
                graph.secret_outputs.append(name)

    cast("Callable[[], None]", program)()
    return graph
