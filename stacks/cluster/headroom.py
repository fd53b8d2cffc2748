"""Raises the namespace's quota before workloads come that need more than it allows: a hook of the `Room` component.

It only ever raises. What is exact is applied at the end, by the quota's own component.
"""

from __future__ import annotations

# pyright: basic, reportOptionalMemberAccess=false
# (the Kubernetes client types every field of every answer as perhaps missing)
from collections.abc import Mapping
from decimal import Decimal
from typing import cast

import pulumi
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.utils.quantity import parse_quantity

from components.quota import MAX, OBJECT_NAME

MANAGER = "groundwork-headroom"
TIMEOUT_SECONDS = 20


def larger(there: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The keys of `wanted` that ask for more than is there, with what they ask for. A key that is not there limits nothing."""
    return {key: value for key, value in wanted.items() if key in there and quantity(value) > quantity(there[key])}


def quantity(text: str) -> Decimal:
    """A Kubernetes quantity, such as 250m or 1Gi."""
    return parse_quantity(text)


def hook(context: str, namespace: str) -> pulumi.ResourceHook:
    """The hook for the cluster of `context`. It runs in `pulumi up` only, never in a preview."""

    def raise_quota(arguments: pulumi.ResourceHookArgs) -> None:
        inputs = cast("Mapping[str, Mapping[str, str]]", arguments.new_inputs or {})
        demand = inputs["data"]
        api = client.CoreV1Api(config.new_client_from_config(context=context))
        hard = {key: value for key, value in demand.items() if not key.startswith(MAX)}
        raise_hard(api, namespace, hard)
        raise_largest(api, namespace, {key.removeprefix(MAX): value for key, value in demand.items() if key.startswith(MAX)})

    return pulumi.ResourceHook("raise-quota", raise_quota)


def raise_hard(api: client.CoreV1Api, namespace: str, wanted: Mapping[str, str]) -> None:
    """Raises the ResourceQuota where it allows less than `wanted`. No quota, nothing to raise."""
    try:
        there = cast("Mapping[str, str]", api.read_namespaced_resource_quota(OBJECT_NAME, namespace, _request_timeout=TIMEOUT_SECONDS).spec.hard)
    except ApiException as error:
        if error.status == 404:
            return
        raise
    if more := larger(there, wanted):
        body = {"spec": {"hard": more}}
        api.patch_namespaced_resource_quota(OBJECT_NAME, namespace, body, field_manager=MANAGER, _request_timeout=TIMEOUT_SECONDS)
        pulumi.log.info(f"room for what comes: quota raised to {', '.join(f'{key}={value}' for key, value in more.items())}")


def raise_largest(api: client.CoreV1Api, namespace: str, wanted: Mapping[str, str]) -> None:
    """Raises what the LimitRange lets one container have."""
    try:
        items = api.read_namespaced_limit_range(OBJECT_NAME, namespace, _request_timeout=TIMEOUT_SECONDS).spec.limits
    except ApiException as error:
        if error.status == 404:
            return
        raise
    more: dict[str, str] = {}
    for item in items:
        if item.type == "Container":
            more = larger(item.max or {}, wanted)
            item.max = {**(item.max or {}), **more}
    if more:
        body = client.V1LimitRange(spec=client.V1LimitRangeSpec(limits=items))
        api.patch_namespaced_limit_range(OBJECT_NAME, namespace, body, field_manager=MANAGER, _request_timeout=TIMEOUT_SECONDS)
