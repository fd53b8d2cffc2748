"""The plugin protocol, for resources that are pure computation: they live in the stack's state and nowhere else.

https://github.com/pulumi/pulumi/blob/master/proto/pulumi/provider.proto
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import NoReturn, TypeAlias

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import plugin_pb2
from pulumi.runtime.proto import provider_pb2 as messages
from pulumi.runtime.proto import provider_pb2_grpc as service
from typing_extensions import override

Value: TypeAlias = "bool | float | str | list[Value] | dict[str, Value] | None"
Properties: TypeAlias = dict[str, Value]

# The words of the wire format, as sdk/python/lib/pulumi/runtime/rpc.py has them.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - the mark of a secret on the wire, itself public

STACK_PREFIX = "sandbox"
ALONE_SECONDS = 1.0  # how soon a plugin notices that its engine was killed


class Invalid(ValueError):
    """An input that cannot work: which one and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class Resource(ABC):
    """One resource type. Property names are those of the wire (camelCase)."""

    type: str
    computed: tuple[str, ...]
    secret: frozenset[str] = frozenset()
    updatable: frozenset[str] = frozenset()  # inputs that may change without a new resource

    @abstractmethod
    def check(self, inputs: Properties) -> None:
        """Raises Invalid where `inputs` cannot work; a value that is not known yet is UNKNOWN."""

    @abstractmethod
    def create(self, inputs: Properties) -> tuple[str, Properties]:
        """The new resource's id, and its outputs besides the inputs."""

    def defaults(self) -> Properties:
        """Inputs that the outputs show even where the program does not set them."""
        return {}

    def expired(self, state: Properties, inputs: Properties) -> str | None:
        """The output that asks for a replacement though no input changed, None where none does."""
        del state, inputs
        return None


class Provider(service.ResourceProviderServicer):
    """Serves `resources` as the plugin `name` at `version`."""

    def __init__(self, name: str, version: str, resources: Iterable[Resource]) -> None:
        self._name = name
        self._version = version
        self._resources = {resource.type: resource for resource in resources}

    @override
    def Handshake(self, request: messages.ProviderHandshakeRequest, context: grpc.ServicerContext) -> messages.ProviderHandshakeResponse:
        """Inputs arrive without their secret marks; the engine puts them back on outputs of the same name."""
        return messages.ProviderHandshakeResponse(accept_secrets=False, accept_resources=False, accept_outputs=False)

    @override
    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:
        """The version of the plugin that this stands in for."""
        return plugin_pb2.PluginInfo(version=self._version)

    @override
    def GetSchema(self, request: messages.GetSchemaRequest, context: grpc.ServicerContext) -> messages.GetSchemaResponse:
        """Programs use the published packages; a stand-in generates none."""
        return messages.GetSchemaResponse(schema=json.dumps({"name": self._name, "version": self._version}))

    @override
    def CheckConfig(self, request: messages.CheckRequest, context: grpc.ServicerContext) -> messages.CheckResponse:
        """There is nothing to configure."""
        self._refuse_other_stacks(request.urn, context)
        return messages.CheckResponse(inputs=request.news)

    @override
    def DiffConfig(self, request: messages.DiffRequest, context: grpc.ServicerContext) -> messages.DiffResponse:
        """There is nothing to configure."""
        return messages.DiffResponse(changes=messages.DiffResponse.DIFF_NONE)

    @override
    def Configure(self, request: messages.ConfigureRequest, context: grpc.ServicerContext) -> messages.ConfigureResponse:
        """There is nothing to configure."""
        return messages.ConfigureResponse(acceptSecrets=False, supportsPreview=True, acceptResources=False, acceptOutputs=False)

    @override
    def Check(self, request: messages.CheckRequest, context: grpc.ServicerContext) -> messages.CheckResponse:
        """Inputs that cannot work are refused before anything happens, with the field's name."""
        self._refuse_other_stacks(request.urn, context)
        inputs = _properties(request.news)
        try:
            self._resource(request.urn, context).check(inputs)
        except Invalid as error:
            return messages.CheckResponse(inputs=request.news, failures=[messages.CheckFailure(property=error.field, reason=error.reason)])
        return messages.CheckResponse(inputs=_struct(inputs))

    @override
    def Diff(self, request: messages.DiffRequest, context: grpc.ServicerContext) -> messages.DiffResponse:
        """Every changed input makes a new resource, except those that the type can update."""
        self._refuse_other_stacks(request.urn, context)
        resource = self._resource(request.urn, context)
        old, new = _properties(request.old_inputs), _properties(request.news)
        ignored = set(request.ignoreChanges)
        changed = sorted(key for key in {*old, *new} if key not in ignored and old.get(key) != new.get(key))
        kinds = messages.PropertyDiff
        detail = {key: kinds(kind=kinds.UPDATE if key in resource.updatable else kinds.UPDATE_REPLACE, inputDiff=True) for key in changed}
        if due := resource.expired(_properties(request.olds), new):
            detail[due] = kinds(kind=kinds.UPDATE_REPLACE)
        return messages.DiffResponse(
            changes=messages.DiffResponse.DIFF_SOME if detail else messages.DiffResponse.DIFF_NONE,
            diffs=list(detail),
            replaces=[key for key, value in detail.items() if value.kind == kinds.UPDATE_REPLACE],
            detailedDiff=detail,
            hasDetailedDiff=True,
        )

    @override
    def Create(self, request: messages.CreateRequest, context: grpc.ServicerContext) -> messages.CreateResponse:
        """In a preview the outputs are unknown, as they are until the resource is made."""
        self._refuse_other_stacks(request.urn, context)
        resource = self._resource(request.urn, context)
        inputs = _properties(request.properties)
        if request.preview:
            unknown: Properties = dict.fromkeys(resource.computed, UNKNOWN)
            return messages.CreateResponse(id="", properties=_struct(resource.defaults() | inputs | unknown))
        try:
            identity, outputs = resource.create(inputs)
        except (ValueError, TypeError) as error:
            _abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"{resource.type}: {error}")
        return messages.CreateResponse(id=identity, properties=self._outputs(resource, inputs, outputs))

    @override
    def Read(self, request: messages.ReadRequest, context: grpc.ServicerContext) -> messages.ReadResponse:
        """The state is the resource: there is nothing else to look at, and so nothing to import."""
        self._refuse_other_stacks(request.urn, context)
        resource = self._resource(request.urn, context)
        state = _properties(request.properties)
        if not state:
            _abort(
                context, grpc.StatusCode.INVALID_ARGUMENT, f"{resource.type} cannot be imported in the sandbox: its value exists in stack state only"
            )
        computed = {key: value for key, value in state.items() if key in resource.computed}
        kept = {key: value for key, value in state.items() if key not in resource.computed}
        return messages.ReadResponse(id=request.id, properties=self._outputs(resource, kept, computed), inputs=request.inputs)

    @override
    def Update(self, request: messages.UpdateRequest, context: grpc.ServicerContext) -> messages.UpdateResponse:
        """Only inputs change; what was computed stays."""
        self._refuse_other_stacks(request.urn, context)
        resource = self._resource(request.urn, context)
        computed = {key: value for key, value in _properties(request.olds).items() if key in resource.computed}
        return messages.UpdateResponse(properties=self._outputs(resource, _properties(request.news), computed))

    @override
    def Delete(self, request: messages.DeleteRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Nothing exists outside the state."""
        self._refuse_other_stacks(request.urn, context)
        return empty_pb2.Empty()

    @override
    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:
        """Nothing here takes long enough to be cancelled."""
        return empty_pb2.Empty()

    def _outputs(self, resource: Resource, inputs: Properties, computed: Properties) -> struct_pb2.Struct:
        outputs = resource.defaults() | inputs | computed
        return _struct({key: _mark_secret(value) if key in resource.secret else value for key, value in outputs.items()})

    def _resource(self, urn: str, context: grpc.ServicerContext) -> Resource:
        wanted = urn.split("::")[2].rsplit("$", maxsplit=1)[-1]
        if wanted not in self._resources:
            known = ", ".join(sorted(self._resources))
            _abort(context, grpc.StatusCode.UNIMPLEMENTED, f"the sandbox's stand-in for `{self._name}` does not have {wanted}; it has {known}")
        return self._resources[wanted]

    def _refuse_other_stacks(self, urn: str, context: grpc.ServicerContext) -> None:
        stack = urn.removeprefix("urn:pulumi:").split("::")[0]
        if not stack.startswith(STACK_PREFIX):
            _abort(
                context,
                grpc.StatusCode.FAILED_PRECONDITION,
                f"stack `{stack}`: this is the sandbox's stand-in for the plugin `{self._name}`, which serves stacks named `{STACK_PREFIX}*` only. "
                "Use the official plugin: leave the sandbox's shell, then `pulumi install`",
            )


def serve(provider: Provider) -> None:
    """Serves until the engine ends, in order or not; the port goes to standard output, where the engine reads it."""
    engine = os.getppid()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    service.add_ResourceProviderServicer_to_server(provider, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    while os.getppid() == engine:
        server.wait_for_termination(ALONE_SECONDS)


def text(inputs: Mapping[str, Value], field: str, default: str = "") -> str:
    """A string among `inputs`."""
    value = inputs.get(field)
    return default if value is None else str(value)


def number(inputs: Mapping[str, Value], field: str, default: int = 0) -> int:
    """A whole number among `inputs`; the wire has only floating ones.

    Raises Invalid where it is none.
    """
    value = inputs.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, float | int) or int(value) != value:
        raise Invalid(field, f"must be a whole number, is {value!r}")
    return int(value)


def flag(inputs: Mapping[str, Value], field: str, *, default: bool = False) -> bool:
    """A truth value among `inputs`."""
    value = inputs.get(field)
    return default if value is None else bool(value)


def words(inputs: Mapping[str, Value], field: str) -> list[str]:
    """A list of strings among `inputs`."""
    value = inputs.get(field)
    return [str(item) for item in value] if isinstance(value, list) else []


def known(inputs: Mapping[str, Value], *fields: str) -> bool:
    """Whether none of `fields` waits for another resource."""
    return all(UNKNOWN not in json.dumps(inputs.get(field)) for field in fields)


def _properties(struct: struct_pb2.Struct) -> Properties:
    return {key: value for key, value in json_format.MessageToDict(struct).items() if value is not None}


def _struct(properties: Properties) -> struct_pb2.Struct:
    return json_format.ParseDict(properties, struct_pb2.Struct())


def _mark_secret(value: Value) -> Value:
    return {SIGNATURE: SECRET, "value": value}


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort returns never")
