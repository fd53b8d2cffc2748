"""RabbitMQ in a stack: a virtual host for each service that uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components import rabbitmq
from components.lib import versions
from components.lib.contracts import Use
from components.rabbitmq import RabbitMQ, RabbitmqArgs, RabbitmqClient
from stacks.kind import Given, Kind
from stacks.values import EngineSettings, ResourceSettings

if TYPE_CHECKING:
    from stacks.settings import StackSettings


class RabbitmqSection(EngineSettings):
    """RabbitMQ."""

    resources: ResourceSettings = ResourceSettings(cpu_m=100, memory_mib=512, cpu_limit_m=2000)


def client(service: str) -> RabbitmqClient:
    """A service's virtual host."""
    return RabbitmqClient(service, vhost=service)


def arguments(settings: StackSettings, given: Given) -> RabbitmqArgs:
    """The node with a client for each service that uses it."""
    return RabbitmqArgs(**given.common(settings, "rabbitmq"), clients=tuple(client(service) for service in settings.users("rabbitmq")))


def use(_settings: StackSettings, args: RabbitmqArgs, service: str, required: bool) -> Use:  # noqa: FBT001 the catalogue's signature
    """A service's virtual host."""
    return rabbitmq.use(args, client(service), required=required)


KIND = Kind("rabbitmq", RabbitmqSection, versions.RABBITMQ, arguments, rabbitmq.describe, RabbitMQ, use)
