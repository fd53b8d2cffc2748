"""The API server's answers, as far as they are read: parsed once, everything else ignored.

https://kubernetes.io/docs/reference/kubernetes-api/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic.alias_generators import to_camel

NO_LABELS: dict[str, str] = {}


class Answer(BaseModel):
    """A part of an answer. Go writes an empty list as null, so that null means what a missing field means."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, alias_generator=to_camel)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {key: inner for key, inner in cast("Mapping[str, object]", value).items() if inner is not None}


Item = TypeVar("Item", bound=Answer)


class Listed(Answer, Generic[Item]):
    """A list of objects."""

    items: tuple[Item, ...] = ()


class Metadata(Answer):
    """Of an object."""

    name: str = ""
    uid: str = ""
    labels: dict[str, str] = NO_LABELS
    annotations: dict[str, str] = NO_LABELS
    deletion_timestamp: str | None = None


class Object(Answer):
    """What all objects have."""

    metadata: Metadata = Metadata()


class Version(Answer):
    """GET /version."""

    major: str
    minor: str
    git_version: str = ""


class Discovery(BaseModel):
    """GET /.well-known/openid-configuration."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    issuer: str
    jwks_uri: str


class ApiGroup(Answer):
    """A group of APIs, by its name."""

    name: str


class ApiGroups(Answer):
    """GET /apis."""

    groups: tuple[ApiGroup, ...] = ()


class NamespaceStatus(Answer):
    """Of a namespace."""

    phase: str = "Active"


class Namespace(Object):
    """A namespace."""

    status: NamespaceStatus = NamespaceStatus()


class ServicePort(Answer):
    """A port of a Service. The name is empty where there is only one."""

    name: str = ""
    port: int
    target_port: int | str = 0


class ServiceSpec(Answer):
    """Of a Service. Without a selector its endpoints are no pods, or somebody else's doing."""

    cluster_ips: tuple[str, ...] = Field(default=(), alias="clusterIPs")
    ip_families: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = NO_LABELS


class Service(Object):
    """A Service."""

    spec: ServiceSpec


class EndpointPort(Answer):
    """A port behind a Service, resolved to the number that the pods listen on."""

    name: str = ""
    port: int | None = None


class Endpoint(Answer):
    """One server behind a Service."""

    addresses: tuple[str, ...] = ()


class EndpointSlice(Object):
    """A part of what stands behind a Service."""

    address_type: str = "IPv4"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    def behind(self, service: str) -> bool:
        """Whether it belongs to the Service of this name."""
        return self.metadata.labels.get("kubernetes.io/service-name") == service


class Container(Answer):
    """A container of a pod template."""

    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()


class PodSpec(Answer):
    """Of a pod template."""

    containers: tuple[Container, ...] = ()
    host_network: bool = False


class Template(Answer):
    """A pod template."""

    spec: PodSpec = PodSpec()

    @property
    def image(self) -> str:
        """Of the first container."""
        return self.spec.containers[0].image if self.spec.containers else ""


class Selector(Answer):
    """Which pods are meant."""

    match_labels: dict[str, str] = NO_LABELS


class DaemonSetSpec(Answer):
    """Of a DaemonSet."""

    selector: Selector = Selector()
    template: Template = Template()


class DaemonSet(Object):
    """What runs on every node."""

    spec: DaemonSetSpec = DaemonSetSpec()


class NodeSpec(Answer):
    """Of a node. Where the network plugin hands out addresses by itself, there are no blocks here."""

    pod_cidrs: tuple[str, ...] = Field(default=(), alias="podCIDRs")


class Node(Object):
    """A node."""

    spec: NodeSpec = NodeSpec()


class StorageClassObject(Object):
    """A storage class."""

    provisioner: str
    allow_volume_expansion: bool = False


class Requests(Answer):
    """What a claim asks for, as a quantity such as 8Gi."""

    storage: str = "0"


class ClaimResources(Answer):
    """Of a claim."""

    requests: Requests = Requests()


class ClaimSpec(Answer):
    """Of a claim, or of a template of claims. An empty class and none are the same to us: nobody provisions."""

    storage_class_name: str = ""
    resources: ClaimResources = ClaimResources()


class ClaimObject(Object):
    """A PersistentVolumeClaim, or a template of it."""

    spec: ClaimSpec = ClaimSpec()


class StatefulSetSpec(Answer):
    """Of a StatefulSet."""

    replicas: int = 1
    template: Template = Template()
    volume_claim_templates: tuple[ClaimObject, ...] = ()


class StatefulSet(Object):
    """A StatefulSet."""

    spec: StatefulSetSpec = StatefulSetSpec()


class Condition(Answer):
    """A condition of an object, such as Complete of a Job."""

    type: str
    status: str


class JobStatus(Answer):
    """Of a Job."""

    conditions: tuple[Condition, ...] = ()


class JobSpec(Answer):
    """Of a Job."""

    template: Template = Template()


class Job(Object):
    """A Job."""

    spec: JobSpec = JobSpec()
    status: JobStatus = JobStatus()

    @property
    def succeeded(self) -> bool:
        """Whether it is done, and well."""
        return any(condition.type == "Complete" and condition.status == "True" for condition in self.status.conditions)


class Secret(Object):
    """A Secret. The values are base64, and never printed."""

    data: dict[str, SecretStr] = Field(default_factory=dict[str, SecretStr])
