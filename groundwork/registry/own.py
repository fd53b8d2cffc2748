"""How a service registers itself, by its settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydantic import ValidationError

from groundwork.registry.models import CheckSpec, Registration
from groundwork.settings import Settings

# What a part of a registration is called in the settings.
_SETTING: Final[Mapping[str, str]] = {
    "service_name": "service",
    "service_id": "instance_id",
    "port": "http_port",
    "ttl": "ttl_seconds",
    "deregister_after": "deregister_after_seconds",
}


def own_registration(settings: Settings) -> Registration:
    """What the registry is told about this process.

    Raises ValueError that names each setting which the registry would refuse, never its value.
    """
    metadata = {"version": settings.version} | ({"zone": settings.zone} if settings.zone else {})
    try:
        return Registration(
            service_name=settings.service,
            service_id=settings.instance_id,
            address=settings.address,
            port=settings.http_port,
            check=CheckSpec(ttl=f"{round(settings.ttl_seconds * 1000)}ms", deregister_after=f"{round(settings.deregister_after_seconds)}s"),
            tags=settings.tags,
            metadata=metadata,
        )
    except ValidationError as error:
        problems = (f"{_name(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors(include_input=False, include_context=False))
        raise ValueError("; ".join(problems)) from None


def _name(loc: tuple[int | str, ...]) -> str:
    """The setting that a part of the registration comes from."""
    first, *rest = (str(part) for part in loc)
    return rest[0] if first == "metadata" and rest else _SETTING.get(first, first)
